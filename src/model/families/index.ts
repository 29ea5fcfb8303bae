export { checkModel, checkTiedHead, checkWeights, type TensorListing } from './weight-checks.ts'
export { UnsupportedModelError, type Config, type Model } from './family.ts'
export { contextFault, PromptError, type PromptContext, type PromptReading } from './prompts.ts'
export { familyOf, modelOf, supportedArchitectures } from './registry.ts'
export {
  blockTensor,
  blockWeights,
  embeddingWeight,
  clientTensors,
  headWeights,
  modelWeights,
  spanTensors,
  type Partition,
  type WeightSpec
} from './weights.ts'
