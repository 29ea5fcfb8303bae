import type { Value } from '../graph/graph.ts'
import { add } from '../graph/operators/index.ts'
import { attention } from './block-parts.ts'
import { readConfig, rmsNorm } from './description.ts'
import type { BlockBuilder, Config, Description, Family } from './family.ts'
import { glmConfig, glmMlp, glmModel } from './glm.ts'

/** GLM-4-0414: GLM-4 whose attention and MLP are normalised before they are added, too. */
export const glm4: Family = { name: 'glm4', modelType: 'glm4', architectures: ['Glm4ForCausalLM'], describe }

function describe (config: Config): Description {
  const c = readConfig('GLM-4-0414', glmConfig, config)
  return {
    ...glmModel(c, config),
    norms: ['input_layernorm', 'post_self_attn_layernorm', 'post_attention_layernorm', 'post_mlp_layernorm'].map((name) =>
      rmsNorm(name, c.hidden_size)
    ),
    block
  }
}

function block (b: BlockBuilder, hidden: Value): Value {
  const attended = b.norm('post_self_attn_layernorm', attention(b, b.norm('input_layernorm', hidden)))
  const middle = b.keep(add(hidden, attended))
  return add(middle, b.norm('post_mlp_layernorm', glmMlp(b, b.norm('post_attention_layernorm', middle))))
}
