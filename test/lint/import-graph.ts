import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import ts from 'typescript'

/** Maps each file to the files that it imports: values, types, re-exports and dynamic imports alike. */
export type ImportGraph = ReadonlyMap<string, readonly string[]>

/** Reads the imports among the TypeScript files of a folder, by their paths in it. Imports from elsewhere are left out. */
export function readImportGraph (folder: string): ImportGraph {
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.ts')).sort()
  return new Map(files.map((file) => {
    const { importedFiles } = ts.preProcessFile(readFileSync(join(folder, file), 'utf8'))
    const imports = importedFiles.map(({ fileName }) => fileName).filter((name) => name.startsWith('.'))
      .map((name) => normalize(join(dirname(file), name)))
    return [file, [...new Set(imports)].filter((name) => existsSync(join(folder, name)))]
  }))
}

/** Finds the circles of a graph: the sets of files of which each reaches all others (Tarjan's strongly connected components). */
export function circlesOf (graph: ImportGraph): string[][] {
  const circles: string[][] = []
  const order = new Map<string, number>()
  const lowest = new Map<string, number>()
  const path: string[] = []
  const onPath = new Set<string>()
  const visit = (file: string): void => {
    order.set(file, order.size)
    lowest.set(file, order.get(file)!)
    path.push(file)
    onPath.add(file)
    for (const imported of graph.get(file) ?? []) {
      if (!order.has(imported)) visit(imported)
      if (onPath.has(imported)) lowest.set(file, Math.min(lowest.get(file)!, lowest.get(imported)!))
    }
    if (lowest.get(file) !== order.get(file)) return
    const circle = path.splice(path.indexOf(file))
    for (const each of circle) onPath.delete(each)
    if (circle.length > 1 || graph.get(file)?.includes(file) === true) circles.push(circle.sort())
  }
  for (const file of graph.keys()) if (!order.has(file)) visit(file)
  return circles
}
