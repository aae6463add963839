// Runs scenarios, several at a time, and says in one line for each what was tried and what held.
import { join } from 'node:path'
import { stopAll } from '../lib/children.mjs'
import { emptyFolder, output } from '../lib/places.mjs'
import { Fleet } from './fleet.mjs'

const list = []

/** `allowed`: sessions that may be lost, with the reason, where a loss is what the scenario shows. */
export const scenario = (name, options, body) => list.push({ name, ...(body ? options : {}), body: body ?? options })

export function demand (condition, what) { if (!condition) throw new Error(what) }

async function one ({ name, body, seconds = 100, allowed = 0, why }, number) {
  const fleets = []
  const said = []
  const folder = join(output, 'replicas', `${number} ${name}`.replace(/[^a-z0-9]+/gi, '-').slice(0, 60))
  const scene = {
    fleet: async plan => {
      const fleet = await Fleet.start(join(folder, String(fleets.length)), plan)
      fleets.push(fleet)
      return fleet
    },
    fleets,
    folder,
    say: text => said.push(text)
  }
  let fault, lost = 0, timer
  const since = performance.now()
  try {
    const limit = new Promise((resolve, reject) => { timer = setTimeout(() => reject(new Error(`not over after ${seconds} s`)), seconds * 1000) })
    await Promise.race([body(scene), limit])
    for (const fleet of fleets) lost += await fleet.lost()
    const late = fleets.reduce((sum, fleet) => sum + fleet.late, 0)
    demand(lost <= allowed, `${lost} sessions lost`)
    demand(late === 0, `${late} requests answered too late or never`)
  } catch (caught) {
    fault = caught
    for (const fleet of lost ? [] : fleets) lost += await fleet.lost(5)
  }
  clearTimeout(timer)
  const facts = fleets.map(fleet => fleet.facts())
  const sum = key => facts.reduce((total, one) => total + one[key], 0)
  const slowest = Math.round(Math.max(0, ...facts.map(one => one.slowest)))
  const other = facts.flatMap(one => one.other)
  const line = [
    `${sum('requests')} requests`, sum('cut') ? `${sum('cut')} cut` : '', ...other, `${sum('renewals')} renewals`, `${sum('reuses')} reuses seen`,
    // Each of them where a loss is what the scenario shows.
    ...(allowed ? facts.flatMap(one => one.again) : []),
    `${lost} lost${allowed ? ` (of at most ${allowed}: ${why})` : ''}`, `slowest ${slowest} ms`, ...said
  ].filter(Boolean).join(', ')
  const faults = fleets.flatMap(fleet => fleet.browsers.filter(browser => browser.fate.fault ?? browser.fate.refused).map(browser => browser.fate.fault ?? browser.fate.refused))
  if (fault) process.exitCode = 1
  const why2 = fault ? `: ${fault.message.replace(/\s+/g, ' ')}${faults.length ? ` [${[...new Set(faults)].join('; ')}]` : ''}` : ''
  console.log(`${fault ? 'not ok' : 'ok'} ${name}${why2}: ${line} (${Math.round((performance.now() - since) / 1000)} s)`)
  if (process.env.WARNINGS) for (const fleet of fleets) for (const [text, count] of fleet.warnings()) console.log(`   ${count} × ${text}`)
  await Promise.all(fleets.map(fleet => fleet.stop()))
}

/** All of them, or those whose name holds `wanted`; at most `at a time` at once. */
export async function runAll (wanted = '', together = Number(process.env.TOGETHER ?? 6)) {
  emptyFolder(output, 'replicas')
  const waiting = list.map((scenario, number) => [scenario, number + 1]).filter(([scenario]) => scenario.name.includes(wanted))
  const work = async () => { for (let next; (next = waiting.shift());) await one(...next) }
  await Promise.all(Array.from({ length: together }, work))
  await stopAll()
  process.exit()
}
