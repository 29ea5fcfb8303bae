/** A class's method as it is now, for a spy that watches and passes on: call it with its `this`. */
export function original<Instance extends object, Name extends keyof Instance> (
  watched: { readonly prototype: Instance },
  name: Name
): Instance[Name] {
  return watched.prototype[name]
}
