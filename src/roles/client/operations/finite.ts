/** Returns a number for an event: null where it is not finite, which JSON cannot say otherwise. */
export function finite (value: number): number | null {
  return Number.isFinite(value) ? value : null
}
