import { spawn, type ChildProcessByStdio } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable, Writable } from 'node:stream'
import { founding } from './federation.ts'
import type { Answer, Question } from './monolith.ts'

type Child = ChildProcessByStdio<Writable, Readable, null>

/** The process of reference.py, which answers as monolith.ts does. */
export class Reference {
  readonly pid: number
  /** Of the libraries that it computes with. */
  readonly versions: Readonly<Record<string, string>>
  readonly #child: Child
  readonly #lines: AsyncIterator<string>

  private constructor (child: Child, pid: number, lines: AsyncIterator<string>, versions: Readonly<Record<string, string>>) {
    this.#child = child
    this.pid = pid
    this.#lines = lines
    this.versions = versions
  }

  static async start (python: string, model: string, threads: number, targets: readonly string[]): Promise<Reference> {
    const { loraR, loraAlpha, learningRate, maxGradientNorm } = founding
    const args = [
      join(import.meta.dirname, 'reference.py'),
      model,
      threads,
      targets.join(),
      loraR,
      loraAlpha,
      learningRate,
      maxGradientNorm
    ].map(String)
    const child = spawn(python, args, { stdio: ['pipe', 'pipe', 'inherit'] })
    await once(child, 'spawn')
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
    return new Reference(child, child.pid!, lines, await next<Record<string, string>>(lines))
  }

  async ask (question: Question): Promise<Answer> {
    this.#child.stdin.write(`${JSON.stringify(question)}\n`)
    return await next<Answer>(this.#lines)
  }

  async stop (): Promise<void> {
    const ended = once(this.#child, 'exit')
    this.#child.stdin.end()
    await ended
  }
}

async function next<T> (lines: AsyncIterator<string>): Promise<T> {
  const line = await lines.next()
  if (line.done === true) throw new Error('the reference process ended; what it wrote to its standard error says why')
  return JSON.parse(line.value) as T
}
