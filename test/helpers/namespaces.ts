import { execFileSync } from 'node:child_process'

/** Whether this process may make network namespaces, each of which is a machine of its own to what runs in it. */
export function hasNamespaces (): boolean {
  const probe = `midspan-probe-${process.pid}`
  try {
    ip('netns', 'add', probe)
    ip('netns', 'del', probe)
    return true
  } catch {
    return false
  }
}

/** Machines that are connected by one switch: a network namespace each. */
export class Machines {
  readonly #switch: string
  readonly #addresses: ReadonlyMap<string, string>

  /** Makes machines with these addresses, by name. The caller removes them. */
  constructor (addresses: ReadonlyMap<string, string>) {
    this.#addresses = addresses
    this.#switch = this.#namespace('switch')
    try {
      ip('netns', 'add', this.#switch)
      this.#in(this.#switch, 'link', 'add', 'bridge', 'type', 'bridge')
      this.#in(this.#switch, 'link', 'set', 'bridge', 'up')
      for (const [index, [name, address]] of [...addresses].entries()) this.#connect(name, address, `port${index}`)
    } catch (error) {
      this.remove()
      throw error
    }
  }

  /** The words with which a command is begun on a machine. */
  on (machine: string): string[] {
    return ['ip', 'netns', 'exec', this.#namespace(machine)]
  }

  remove (): void {
    for (const name of [...this.#addresses.keys(), 'switch']) {
      try {
        ip('netns', 'del', this.#namespace(name))
      } catch {
        // It was not made.
      }
    }
  }

  #connect (name: string, address: string, port: string): void {
    const namespace = this.#namespace(name)
    ip('netns', 'add', namespace)
    this.#in(this.#switch, 'link', 'add', port, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', namespace)
    this.#in(this.#switch, 'link', 'set', port, 'master', 'bridge', 'up')
    this.#in(namespace, 'link', 'set', 'lo', 'up')
    this.#in(namespace, 'address', 'add', `${address}/24`, 'dev', 'eth0')
    this.#in(namespace, 'link', 'set', 'eth0', 'up')
  }

  #in (namespace: string, ...words: readonly string[]): void {
    ip('-n', namespace, ...words)
  }

  #namespace (name: string): string {
    return `midspan-${process.pid}-${name}`
  }
}

function ip (...words: readonly string[]): void {
  execFileSync('ip', words, { stdio: 'pipe' })
}
