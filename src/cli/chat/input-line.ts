/** What may be typed besides questions, with what it does. */
export const CHAT_COMMANDS = {
  help: 'show this',
  system: 'TEXT: tell the model how to answer from now on; without a text, take that back',
  reset: 'forget the conversation, but not /system',
  save: 'FILE: write the conversation as JSON, which chat and generate read with --messages',
  stats: 'show speed and bytes',
  exit: 'end the chat, as Ctrl-D does'
} as const

export type ChatCommand = keyof typeof CHAT_COMMANDS

/** What one line of a chat asks for. */
export type InputLine =
  | { readonly kind: 'nothing' }
  | { readonly kind: 'question', readonly text: string }
  | { readonly kind: 'command', readonly name: ChatCommand, readonly argument: string }
  | { readonly kind: 'unknown', readonly name: string }

/** Reads a line. One that begins with `/` is a command, and one that begins with `//` is a question that begins with `/`. */
export function readInputLine (line: string): InputLine {
  const text = line.trim()
  if (text === '') return { kind: 'nothing' }
  if (text.startsWith('//')) return { kind: 'question', text: text.slice(1) }
  const [, name, argument = ''] = /^\/(\S*)\s*([^]*)$/.exec(text) ?? []
  if (name === undefined) return { kind: 'question', text }
  return Object.hasOwn(CHAT_COMMANDS, name) ? { kind: 'command', name: name as ChatCommand, argument } : { kind: 'unknown', name }
}
