// Where things are. Each can be moved by an environment variable, so that a suite runs alone, too.
import { createRequire } from 'node:module'
import { mkdirSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const tests = dirname(dirname(fileURLToPath(import.meta.url)))
export const work = process.env.TESTS_WORK ?? join(tests, '.work')
export const output = process.env.TESTS_OUTPUT ?? join(tests, 'output')
export const doorkeep = process.env.DOORKEEP ?? join(tests, '..', 'target', 'release', 'doorkeep')
export const modules = join(work, 'npm', 'node_modules')
export const python = join(work, 'venv', 'bin', 'python')
export const load = createRequire(join(work, 'npm', 'package.json'))

/** The folder of that name under `parent`, empty. */
export function emptyFolder (parent, ...names) {
  const folder = join(parent, ...names)
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  return folder
}
