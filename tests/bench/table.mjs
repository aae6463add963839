// Measures Doorkeep and its peers side by side, prints the table, and says which promises hold. Started by tests/bench/run.
// usage: node tests/bench/table.mjs [SCENARIO]...   without a name: all of them
import { appendFileSync } from 'node:fs'
import { join } from 'node:path'
import { freePorts, stopAll } from '../lib/children.mjs'
import { emptyFolder, output } from '../lib/places.mjs'
import { promises } from './lib/promises.mjs'
import { Figures, print } from './lib/figures.mjs'
import { needTwoProcessors } from './lib/machine.mjs'
import { makeKeys } from './lib/tokens.mjs'

const folder = emptyFolder(output, 'bench')
const { Run, SCENARIOS } = await import('./lib/scenarios.mjs')
const names = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(SCENARIOS)
const unknown = names.filter(name => !SCENARIOS[name])
if (unknown.length > 0) {
  console.error(`no scenario ${unknown.join(', ')}; there are: ${Object.keys(SCENARIOS).join(' ')}`)
  process.exit(64)
}
needTwoProcessors()

const rounds = Number(process.env.BENCH_ROUNDS ?? 8)
/** What takes long or hardly moves is measured in one of so many rounds. */
const SOME = 3
const run = new Run({ folder, keys: makeKeys(folder), seconds: Number(process.env.BENCH_SECONDS ?? 1) })
await run.startApp(await freePorts())
const figures = new Figures()
/** A row that several scenarios need is measured once a round. */
const rows = [...new Map(names.flatMap(name => SCENARIOS[name]).map(row => [`${row.what} | ${row.who}`, row])).values()]
for (let round = 0; round < rounds; round++) {
  for (const row of rows.filter(row => row.always || round % SOME === 0)) {
    try {
      const found = await row.measure(run)
      figures.add(row, round, found)
      appendFileSync(join(folder, 'figures.jsonl'), JSON.stringify({ what: row.what, who: row.who, round, ...found }) + '\n')
    } catch (fault) {
      figures.fail(row, fault)
    }
  }
  console.error(`round ${round + 1} of ${rounds} is over`)
}
await stopAll()
print(figures)
promises(figures)
