/** Runs every benchmark, one after the other. Run: npm run bench [-- --out FILE, to keep what they print as Markdown] */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'

const BENCHMARKS = [
  { file: 'step.ts', title: 'Training step' },
  { file: 'batch.ts', title: 'Clients in one batch' },
  { file: 'decode.ts', title: 'Generation' },
  { file: 'serving.ts', title: 'Many clients on one server' },
  { file: 'route.ts', title: 'Servers in series' },
  { file: 'scale.ts', title: 'Scale' },
  { file: 'drafts.ts', title: 'Drafted tokens' },
  { file: 'latency.ts', title: 'Drafted tokens through delay' },
  { file: 'goodput.ts', title: 'Sealed stream' },
  { file: 'weights.ts', title: 'Formats of frozen weights' },
  { file: 'pytorch.ts', title: 'Beside PyTorch' },
  { file: 'profile.ts', title: 'Operators of a training step' },
  { file: 'loading.ts', title: 'Loading a checkpoint' }
]

async function run (file: string): Promise<string> {
  const child = spawn(process.execPath, [join(import.meta.dirname, file)], { stdio: ['ignore', 'pipe', 'inherit'] })
  let text = ''
  child.stdout.setEncoding('utf8').on('data', (piece: string) => {
    text += piece
    process.stdout.write(piece)
  })
  const [code] = await once(child, 'close') as [number | null]
  if (code !== 0) throw new Error(`${file} ended with ${String(code)}`)
  return text.trimEnd()
}

const { values: { out } } = parseArgs({ options: { out: { type: 'string' } } })
const sections: string[] = []
for (const { file, title } of BENCHMARKS) {
  console.log(`\n== ${title} (bench/${file})\n`)
  sections.push(`## ${title}\n\n\`node bench/${file}\`\n\n\`\`\`text\n${await run(file)}\n\`\`\`\n`)
}
if (out !== undefined)
  await writeFile(out, `# Benchmarks\n\n\`npm run bench\`, as measured on 2 cores of a server CPU.\n\n${sections.join('\n')}`)
