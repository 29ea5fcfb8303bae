import { stat } from 'node:fs/promises'
import { parse as parseYaml } from 'yaml'
import { task, taskKinds, type Task, type TaskKind } from '../../api/task.ts'
import { readUtf8 } from '../text/utf8.ts'
import { resolveTask, TaskError } from './resolved-task.ts'

/** A file of a task is read whole: its templates and labels have a hundredth of it. */
export const MAX_TASK_BYTES = 1024 * 1024

/** Returns the task that a word names, or that a YAML file describes. Throws TaskError that says what is wrong with it. */
export async function readTask (nameOrPath: string): Promise<Task> {
  if (isKind(nameOrPath)) return { kind: nameOrPath }
  const size = await stat(nameOrPath).then((found) => found.isFile() ? found.size : undefined, () => undefined)
  if (size === undefined)
    throw new TaskError(`${nameOrPath} is no task, and no file with one`, `name one of ${taskKinds.join(', ')}, or a YAML file (docs/tasks.md)`)
  if (size > MAX_TASK_BYTES) throw new TaskError(`${nameOrPath} has ${size} bytes, more than the ${MAX_TASK_BYTES} that a task may have`)
  const text = await readUtf8(nameOrPath).catch((error: unknown) => {
    throw new TaskError(`${nameOrPath} cannot be read: ${(error as Error).message}`)
  })
  return parseTask(text, nameOrPath)
}

/** Reads the YAML text of a task, and checks that it can be carried out. Throws TaskError that begins with `place`. */
export function parseTask (text: string, place: string): Task {
  const next = 'see docs/tasks.md for what a task has'
  let value: unknown
  try {
    value = parseYaml(text, { maxAliasCount: 0, logLevel: 'error' })
  } catch (error) {
    throw new TaskError(`${place} is not YAML: ${String((error as Error).message.split('\n')[0])}`, next)
  }
  const parsed = task.safeParse(value)
  if (!parsed.success) {
    const [issue] = parsed.error.issues
    if (issue?.code === 'unrecognized_keys') throw new TaskError(`${place}: a task has no ${issue.keys[0]}`, next)
    throw new TaskError(`${place}: ${[...issue?.path ?? [], ''].join('.').slice(0, -1) || 'it'} cannot be used: ${issue?.message}`, next)
  }
  resolveTask(parsed.data)
  return parsed.data
}

function isKind (name: string): name is TaskKind {
  return (taskKinds as readonly string[]).includes(name)
}
