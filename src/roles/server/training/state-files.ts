/** The coordinator's state of training, in its home's directory for state. */
export const TRAINING_FILE = 'training.safetensors'

/** The copy of that state on a server that may lead one day. */
export const STANDBY_FILE = 'standby.safetensors'
