import { cp, writeFile } from 'node:fs/promises'
import { modelDirectory } from '../../../src/cli/demo/federation.ts'

/** Begins with the token that begins a text, and writes the names of tools and then each message's content after the one before. */
const TEMPLATE = "{{ bos_token }}{% for tool in tools or [] %}{{ tool.function.name }} {% endfor %}{# calls: <tool_call> #}{% for message in messages %}{{ message['content'] }}{% if not loop.last %} {% endif %}{% endfor %}"

/** Makes a copy of the demo's model that has a chat template. It continues the last message. */
export async function makeChatModel (directory: string): Promise<void> {
  await cp(modelDirectory, directory, { recursive: true })
  await writeFile(`${directory}/chat_template.jinja`, TEMPLATE)
}
