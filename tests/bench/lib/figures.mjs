// Figures of all rounds, and their table.
import { OWN } from './peers.mjs'

/** What such a part of the list is below, between its two neighbours where it is none of them. */
const quantile = (list, part) => {
  const sorted = [...list].sort((a, b) => a - b)
  const at = (sorted.length - 1) * part
  const [below, above] = [sorted[Math.floor(at)], sorted[Math.ceil(at)]]
  return below + (above - below) * (at % 1)
}

export const median = list => quantile(list, 0.5)

export class Figures {
  rows = new Map()
  faults = []

  add ({ scenario, what, who }, round, found) {
    const key = `${what} | ${who}`
    if (!this.rows.has(key)) this.rows.set(key, { scenario, what, who, rounds: [] })
    this.rows.get(key).rounds[round] = found
  }

  fail ({ what, who }, fault) {
    this.faults.push(`${what}, ${who}: ${fault.message.split('\n')[0]}`)
    console.error(fault)
  }

  /** One figure of a row, round by round; without those in which it failed. */
  all (what, who, name) {
    return (this.rows.get(`${what} | ${who}`)?.rounds ?? []).map(found => found?.[name])
  }

  of (what, who, name) {
    const found = this.all(what, who, name).filter(Number.isFinite)
    return found.length > 0 ? median(found) : undefined
  }

  /** A row in relation to another: the median of what it was in each round. */
  ratios (what, who, name, otherWhat, otherWho) {
    const others = this.all(otherWhat, otherWho, name)
    return this.all(what, who, name).map((own, round) => own / others[round]).filter(Number.isFinite)
  }
}

const short = number => number >= 100 ? number.toFixed(0) : number >= 10 ? number.toFixed(1) : number.toFixed(2)

/** `median [lower quartile–upper quartile]`. */
export function spread (list) {
  const found = list.filter(Number.isFinite)
  if (found.length === 0) return '–'
  const [lower, upper] = [quantile(found, 0.25), quantile(found, 0.75)].map(short)
  return short(median(found)) + (lower === upper ? '' : ` [${lower}–${upper}]`)
}

const PEERS = ['nginx', 'HAProxy', 'Envoy', 'oauth2-proxy', 'floor', 'Doorkeep', 'optimized']
/** As their columns are headed. */
const HEADS = { optimized: 'Doorkeep, optimized' }

/** The one figure of a row that is held against other peers', and its unit. */
const FIGURES = { cpu: 'CPU µs', perGib: 'CPU s per GiB', kib: 'KiB', ms: 'ms' }

/** What a row stands in relation to: itself where nothing else is named. */
const against = what => /^[A-Z]{2}256$/.test(what) ? 'plain' : what === 'HTTP/2 RS256' ? 'HTTP/2' : what

/** A row's name for readers. */
const label = what =>
  /^[A-Z]{2}256$/.test(what)
    ? `with a known ${what} token`
    : what.startsWith('HTTP/2')
      ? `by TLS 1.3 and HTTP/2${what.slice(6) && `, with a known ${what.slice(7)} token`}`
      : /^(TLS, )?HTTP/.test(what) ? `idle connection, ${what}` : what

/** Markdown, for the README: what each peer costs; then what Doorkeep alone is asked. */
export function print (figures) {
  const rows = [...figures.rows.values()]
  const peers = PEERS.filter(who => who !== 'optimized' || OWN === who)
  const beside = [...new Set(rows.filter(row => PEERS.includes(row.who) && row.scenario !== 'cold').map(row => row.what))]
  const lines = beside.flatMap(what => {
    const name = Object.keys(FIGURES).find(name => figures.of(what, OWN, name) !== undefined)
    if (!name || peers.every(who => who === OWN || figures.of(what, who, name) === undefined)) return []
    const cells = peers.map(who => spread(figures.all(what, who, name)))
    const times = (who, other) => spread(figures.ratios(what, who, name, other, 'nginx'))
    return [[`${label(what)}, ${FIGURES[name]}`, ...cells, times(OWN, against(what))]]
  })
  table(['', ...peers.map(who => HEADS[who] ?? who), `${HEADS[OWN] ?? OWN} × nginx`], lines)
  const algorithms = [...new Set(rows.filter(row => row.scenario === 'cold' && row.what.includes(',')).map(row => row.what.split(',')[0]))]
  table(['CPU µs', 'signature alone', 'verification alone', 'request, each token new', 'the same, the floor'], algorithms.map(algorithm => [
    algorithm,
    spread(figures.all(`${algorithm}, signature alone`, 'alone', 'cpu')),
    spread(figures.all(`${algorithm}, whole verification alone`, 'alone', 'cpu')),
    spread(figures.all(`${algorithm}, each new`, OWN, 'cpu')),
    spread(figures.all(`${algorithm}, each new`, 'floor', 'cpu'))]))
  const busy = rows.filter(row => ['plain', 'warm'].includes(row.scenario)).flatMap(row => row.rounds.map(found => found?.busy)).filter(Number.isFinite)
  if (busy.length > 0) console.log(`The measured processor was busy ${spread(busy)} of the time.\n`)
}

function table (heading, lines) {
  if (lines.length === 0) return
  console.log(`| ${heading.join(' | ')} |\n|${' --- |'.repeat(heading.length)}`)
  for (const cells of lines) console.log(`| ${cells.join(' | ')} |`)
  console.log()
}
