import { createReadStream } from 'node:fs'
import { join } from 'node:path'
import { replaceFile, writeFully } from '../../model/checkpoint/atomic.ts'
import { digest } from '../../model/checkpoint/fingerprint.ts'
import { adapterWeightsFile, readPeftAdapter } from '../../model/checkpoint/peft.ts'
import { SafetensorsFile } from '../../model/checkpoint/safetensors.ts'
import type { Model } from '../../model/families/index.ts'
import type { AdapterTraining } from '../../model/layers/trainable.ts'
import { importedSettings } from '../../model/training/initial-adapter.ts'
import type { Charter } from '../../protocols/charter/index.ts'
import type { Home } from '../home/home.ts'

/**
 * Takes a PEFT adapter directory into a founder's home, as the start of training. Returns what the charter says of it. Throws AdapterError.
 */
export async function importAdapter (
  home: Home,
  directory: string,
  model: Model,
  trained: Pick<AdapterTraining, 'blocks'>
): Promise<Pick<Charter['adapters'], 'r' | 'alpha' | 'rslora' | 'targets' | 'initial'>> {
  const { r, alpha, rslora, targets } = importedSettings(model, await readPeftAdapter(directory), trained)
  await replaceFile(home.adapter, async (handle) => {
    for await (const chunk of createReadStream(join(directory, adapterWeightsFile))) await writeFully(handle, chunk as Buffer)
  })
  const file = await SafetensorsFile.open(home.adapter)
  const initial: NonNullable<Charter['adapters']['initial']> = {}
  for (const [name, { dtype, shape }] of file.tensors) initial[name] = { dtype, shape: [...shape], ...await digest(file.chunks(name)) }
  return { r, alpha, rslora, targets: [...targets], initial }
}
