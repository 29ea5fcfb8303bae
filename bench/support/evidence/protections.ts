import { z } from 'zod'

/** What protects the text of a federation's clients. */
export const protectionSchema = z.object({
  /** On hidden states and on gradients, over the clip; 0: none, and no clip. */
  noise: z.number().min(0),
  /** Rules for words whose states do not leave. */
  withhold: z.string().min(1).optional()
})

export type Protection = z.output<typeof protectionSchema>

export const UNPROTECTED: Protection = { noise: 0 }

/** Reads protections as the command line has them: noise:0.1,withhold:capitals. Throws RangeError. */
export function parseProtections (text: string): Protection[] {
  return text.split(',').filter((part) => part !== '').map((part) => {
    const [kind, value = ''] = part.split(/:(.*)/s)
    const protection = kind === 'noise' ? { noise: Number(value) } : kind === 'withhold' ? { noise: 0, withhold: value } : undefined
    const parsed = protectionSchema.safeParse(protection)
    if (!parsed.success || (kind === 'noise' && !(parsed.data.noise > 0)))
      throw new RangeError(`--protections: ${part} is neither noise:NUMBER nor withhold:RULE`)
    return parsed.data
  })
}

/** Returns the name of the system of a federation with a protection. */
export function protectedSystem ({ noise, withhold }: Protection): string {
  if (withhold !== undefined) return `withheld ${withhold}`
  return noise === 0 ? 'federated' : `noise ${noise}`
}

/** Whether this is the name of a federation that is protected. */
export function isProtected (system: string): boolean {
  return /^(noise|withheld) /.test(system)
}
