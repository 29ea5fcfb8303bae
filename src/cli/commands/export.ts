import type { ResultOf } from '../../api/operations.ts'
import { command } from '../command.ts'
import { callDaemon } from '../daemon-client.ts'
import { bytes, plural } from '../format.ts'
import { grouped, mandatory, optional, toggle } from '../option.ts'
import { json, timeout } from '../shared-options.ts'
import { path, text } from '../values.ts'
import { ProgressLine } from '../views/progress-line.ts'

export const exportTrained = command({
  name: 'export',
  operation: 'export',
  withoutReader: 'stops',
  group: 'Work',
  summary: 'Write what was trained as a PEFT directory, or as a merged model',
  details:
    `A PEFT directory loads with Python's peft, 0.7 and later, over the same base model: adapter_config.json and adapter_model.safetensors.
The scale of rank-stabilised adapters stands in its lora_alpha, and what is trained whole in modules_to_save, module by module; where every block is trained whole, only a merged model can be written.
A merged model is a Hugging Face directory like the base's, in the same types and shards, with the update in its weights. It takes a peer that has the whole model:
the server does, a client names a directory with --model, which is checked against the charter.
Both are read again after they are written. A merged model takes its name only then.
An adapter names its base model: as the model's own configuration does, or as --base-model says. Where neither is known it names none, and whoever loads it gives the base model.`,
  options: {
    ...grouped('Network', { timeout }),
    ...grouped('Output', {
      out: mandatory('DIR', path, 'Where to write; for a merged model, a directory that is not there yet'),
      merged: toggle('Write the whole model with the update in its weights'),
      model: optional('DIR', path, 'The base model for --merged', "the server's own"),
      baseModel: optional(
        'NAME',
        text,
        'What an adapter names as its base model: a repository or a path',
        "the name in the model's own config.json"
      ),
      force: toggle('Replace an adapter that is in the directory already'),
      json
    })
  },
  examples: [
    { command: 'midspan export --out adapter/', about: 'an adapter that peft loads' },
    { command: 'midspan export --home s --merged --out tuned/', about: 'where the server runs: a model that transformers loads' }
  ],
  async run ({ home, out, merged, model, baseModel, force, timeout, json }, { terminal, signal }) {
    const progress = new ProgressLine(terminal)
    try {
      for await (const event of callDaemon(home, 'export', { out, merged, model, baseModel, force, timeoutMs: timeout }, signal)) {
        if (event.type === 'waiting') progress.wait(event.reason)
        if (event.type !== 'done') continue
        progress.clear()
        const { type: _type, ...told } = event
        if (json) terminal.json(told)
        else terminal.line(describe(event))
        if (event.baseModel === null) terminal.note('The adapter names no base model, since none is known here: name it with --base-model')
      }
    } finally {
      progress.clear()
    }
  }
})

function describe (done: ResultOf<'export'>): string {
  const { directory, tensors, parameters, round } = done
  const trained = `${plural(parameters, 'parameter')} of round ${round}`
  if (done.format === 'peft') return `Wrote ${plural(tensors, 'tensor')} (${trained}) to ${directory}`
  return `Wrote the model (${plural(tensors, 'tensor')}, ${bytes(done.bytes ?? 0)}; ${done.changed ?? 0} with ${trained}) to ${directory}`
}
