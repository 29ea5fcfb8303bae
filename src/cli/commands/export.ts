import { command } from '../command.ts'
import { callDaemon } from '../daemon-client.ts'
import type { ExportDone } from '../events.ts'
import { bytes, plural } from '../format.ts'
import { grouped, mandatory, optional, toggle } from '../option.ts'
import { json } from '../shared-options.ts'
import { path } from '../values.ts'

export const exportTrained = command({
  name: 'export',
  group: 'Work',
  summary: 'Write what was trained as a PEFT directory, or as a merged model',
  details:
    `A PEFT directory loads with Python's peft, 0.7 and later, over the same base model: adapter_config.json and adapter_model.safetensors.
The scale of rank-stabilised adapters stands in its lora_alpha, and what is trained whole in modules_to_save, module by module; where every block is trained whole, only a merged model can be written.
A merged model is a Hugging Face directory like the base's, in the same types and shards, with the update in its weights. It takes a peer that has the whole model:
the server does, a client names a directory with --model, which is checked against the charter.
Both are read again after they are written. A merged model takes its name only then.`,
  options: grouped('Output', {
    out: mandatory('DIR', path, 'Where to write; for a merged model, a directory that is not there yet'),
    merged: toggle('Write the whole model with the update in its weights'),
    model: optional('DIR', path, 'The base model for --merged', "the server's own"),
    json
  }),
  examples: [
    { command: 'midspan export --out adapter/', about: 'an adapter that peft loads' },
    { command: 'midspan export --home s --merged --out tuned/', about: 'where the server runs: a model that transformers loads' }
  ],
  async run ({ home, out, merged, model, json }, { terminal, signal }) {
    for await (const done of callDaemon<ExportDone>(home, 'export', { out, merged, ...(model === undefined ? {} : { model }) }, signal)) {
      const { type: _type, ...told } = done
      if (json) terminal.json(told)
      else terminal.line(describe(done))
    }
  }
})

function describe (done: ExportDone): string {
  const { directory, tensors, parameters, round } = done
  const trained = `${plural(parameters, 'parameter')} of round ${round}`
  if (done.format === 'peft') return `Wrote ${plural(tensors, 'tensor')} (${trained}) to ${directory}`
  return `Wrote the model (${plural(tensors, 'tensor')}, ${bytes(done.bytes)}; ${done.changed} with ${trained}) to ${directory}`
}
