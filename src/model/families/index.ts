export { checkModel, checkTiedHead, checkWeights, type TensorListing } from './check.ts'
export { UnsupportedModelError, type Config, type Model, type Span } from './family.ts'
export { contextFault, PromptError, type PromptContext, type PromptReading } from './prompts.ts'
export { familyOf, modelOf, supportedArchitectures } from './registry.ts'
export {
  blockTensor,
  blockWeights,
  embeddingWeight,
  endTensors,
  headWeights,
  modelWeights,
  spanTensors,
  type EndBlocks,
  type WeightSpec
} from './weights.ts'
