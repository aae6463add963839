// What Doorkeep promises of its cost, each held against the figures of this run: one line for each that can be told.
import { median, spread } from './figures.mjs'
import { OWN, POOLED } from './peers.mjs'
import { ALGORITHMS } from './tokens.mjs'

/** `ok` or `not ok`: `list` (one for each round) is at most, or at least, `limit`. */
function hold (name, list, limit, { least = false, unit = '' } = {}) {
  const found = list.filter(Number.isFinite)
  if (found.length === 0) return
  const holds = least ? median(found) >= limit : median(found) <= limit
  if (!holds) process.exitCode = 1
  console.log(`${holds ? 'ok' : 'not ok'} ${name}: ${spread(found)}${unit} (${least ? 'at least' : 'at most'} ${limit}${unit})`)
}

/** Every promise is held against each Doorkeep that was measured: the usual build, and the optimized one where there is one. */
export function promises (figures) {
  for (const own of new Set(['Doorkeep', OWN])) {
    console.log(`${own}:`)
    promisesOf(figures, own)
  }
  hold('a pool of its own, of the library\'s, at the floor', figures.ratios('plain', 'floor', 'cpu', 'plain', POOLED), 0.92)
  for (const fault of figures.faults) {
    process.exitCode = 1
    console.log(`not ok ${fault}`)
  }
}

function promisesOf (figures, own) {
  const ratios = (what, who, otherWhat, otherWho, name = 'cpu') => figures.ratios(what, who, name, otherWhat, otherWho)
  hold('plain, of nginx', ratios('plain', own, 'plain', 'nginx'), 1.15)
  for (const algorithm of ALGORITHMS) {
    hold(`${algorithm} warm, of nginx plain`, ratios(algorithm, own, 'plain', 'nginx'), 1.25)
    hold(`${algorithm} warm, of Envoy with its cache`, ratios(algorithm, own, algorithm, 'Envoy'), 0.45)
    hold(`${algorithm} warm, of oauth2-proxy, signed in`, ratios(algorithm, own, 'RS256', 'oauth2-proxy'), 0.15)
  }
  for (const algorithm of ALGORITHMS) {
    const bound = figures.all('plain', own, 'cpu').map((plain, round) =>
      plain + 1.1 * figures.all(`${algorithm}, signature alone`, 'alone', 'cpu')[round])
    const found = figures.all(`${algorithm}, each new`, own, 'cpu').map((cpu, round) => cpu / bound[round])
    hold(`${algorithm} cold, of plain and 1.1 verifications`, found, 1)
  }
  hold('HTTP/2 plain, of the floor', ratios('HTTP/2', own, 'HTTP/2', 'floor'), 1.1)
  hold('HTTP/2 with RS256, of the floor', ratios('HTTP/2 RS256', own, 'HTTP/2 RS256', 'floor'), 1.1)
  hold('new TLS connection, of the floor', ratios('new TLS connection', own, 'new TLS connection', 'floor'), 1.1)
  hold('new TLS connection, of nginx', ratios('new TLS connection', own, 'new TLS connection', 'nginx'), 0.8)
  // Two workers share both processors with the load, so what they do in a second is reckoned from what a request costs them.
  hold('two workers, of one', ratios('one worker', own, 'two workers', own).map(ratio => 2 * ratio), 1.8, { least: true })
  hold('idle connection, HTTP/1.1', figures.all('HTTP/1.1', own, 'kib'), 16, { unit: ' KiB' })
  hold('memory at the start', figures.all('memory', own, 'start'), 16, { unit: ' MiB' })
  hold('memory under load', figures.all('memory', own, 'load'), 64, { unit: ' MiB' })
  for (const way of ['down', 'up']) {
    hold(`1 GiB ${way}, growth`, figures.all(`stream ${way}`, own, 'grown'), 16, { unit: ' MiB' })
    hold(`1 GiB ${way}, of nginx`, ratios(`stream ${way}`, own, `stream ${way}`, 'nginx', 'perGib'), 0.7)
  }
  hold('first 200 after the start', figures.all('first 200', own, 'ms'), 20, { unit: ' ms' })
  // 64 MiB are reckoned for tokens; an allocator rounds up.
  hold('200,000 tokens, growth', figures.all('200,000 tokens', own, 'grown'), 80, { unit: ' MiB' })
  const few = figures.all('200,000 tokens', own, 'few')
  hold('a token that is there, among 200,000', figures.all('200,000 tokens', own, 'full').map((full, round) => full / few[round]), 1.1)
}
