import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { commands } from '../../src/cli/commands.ts'
import { resolveOptions } from '../../src/cli/layers.ts'
import { environmentName, flagText } from '../../src/cli/option.ts'
import { optionNames } from '../../src/cli/program.ts'

const known = optionNames(commands)

function exampleFile (name: string): string {
  return fileURLToPath(new URL(`../../config/${name}`, import.meta.url))
}

describe('the commands', () => {
  it.each([
    ['server.yaml', ['init', 'daemon', 'invite', 'status']],
    ['client.yaml', ['join', 'daemon', 'train', 'evaluate', 'generate', 'export']]
  ])('accept the example %s', async (file, names) => {
    for (const { options } of commands.filter(({ name }) => names.includes(name))) {
      const needed = Object.fromEntries(
        Object.entries(options).filter(([, { mandatory }]) => mandatory === true).map(([key]) => [key, ['x']])
      )
      await resolveOptions(options, known, { ...needed, config: [exampleFile(file)] }, {})
    }
  })

  it('say what every option means', () => {
    for (const { options } of commands) {
      for (const { about } of Object.values(options)) expect(about).not.toBe('')
    }
  })

  it('name options alike on the command line and in the environment', () => {
    expect([flagText('loraR', { value: 'RANK', about: '', parse: String, fallback: '' }), environmentName('loraR')]).toEqual([
      '--lora-r RANK',
      'MIDSPAN_LORA_R'
    ])
    expect(environmentName('beta1')).toBe('MIDSPAN_BETA1')
    expect(environmentName('maxTokensPerClient')).toBe('MIDSPAN_MAX_TOKENS_PER_CLIENT')
  })

  it('show an example each', () => {
    for (const { examples } of commands) expect(examples.length).toBeGreaterThan(0)
  })
})
