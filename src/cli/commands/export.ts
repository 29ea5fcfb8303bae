import { command } from '../command.ts'
import { callDaemon } from '../daemon-client.ts'
import type { ExportDone } from '../events.ts'
import { plural } from '../format.ts'
import { grouped, mandatory } from '../option.ts'
import { json } from '../shared-options.ts'
import { path } from '../values.ts'

export const exportAdapter = command({
  name: 'export',
  group: 'Work',
  summary: 'Write the trained adapters as a PEFT directory',
  details: "The directory loads with Python's peft over the same base model: adapter_config.json and adapter_model.safetensors.",
  options: grouped('Output', {
    out: mandatory('DIR', path, 'Where to write'),
    json
  }),
  examples: [{ command: 'midspan export --out adapter/', about: 'an adapter that peft loads' }],
  async run ({ home, out, json }, { terminal, signal }) {
    for await (const { type: _type, ...done } of callDaemon<ExportDone>(home, 'export', { out }, signal)) {
      if (json) terminal.json(done)
      else terminal.line(`Wrote ${plural(done.tensors, 'tensor')} (${plural(done.parameters, 'parameter')}) of round ${done.round} to ${done.directory}`)
    }
  }
})
