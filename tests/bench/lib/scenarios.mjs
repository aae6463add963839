// What is measured. Each scenario is a list of rows; the rows of all scenarios that were asked for take turns, round by round,
// so that whatever else the machine does meets all of them alike. What requests cost is measured in a short slice in each round,
// of a process of its own: a machine's mood lasts longer than a slice, no process lies in memory as the one before, and there are
// enough of them for a median.
import assert from 'node:assert/strict'
import { readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { alive, start } from '../../lib/children.mjs'
import { tests } from '../../lib/places.mjs'
import { until } from '../../lib/report.mjs'
import { cost, costConnection, costHttp2, costOnce, costTogether, sendOnce } from './load.mjs'
import { median } from './figures.mjs'
import { LOAD, MEASURED, forgetPeak, peak, resident, runOn, share, spent, startOn } from './machine.mjs'
import { OWN, PEERS, POOLED, Peer, settings } from './peers.mjs'
import { startProvider } from './provider.mjs'
import { ALGORITHMS, mintMany } from './tokens.mjs'

/** Tokens that a warm cache holds, and those that are new to it. */
const WARM = 1000
const COLD = { HS256: 30_000, RS256: 15_000, ES256: 15_000 }
const LIVE = 200_000
/** Slices of each of two processes that are held against one another. */
const TURNS = 5

/** A run: its keys, its app, and the tokens that were made so far. */
export class Run {
  constructor ({ folder, keys, seconds }) {
    Object.assign(this, { folder, keys, seconds, made: new Map(), sets: 0 })
  }

  async startApp (port) {
    this.upstream = port
    this.app = startOn(LOAD, process.env.BENCH_UPSTREAM, [`127.0.0.1:${port}`], join(this.folder, 'app.log'))
    await sleep(200)
    alive(this.app)
  }

  /** A file of `count` tokens, made once for each name. */
  async tokens (algorithm, count, name) {
    const key = `${algorithm}-${name}`
    if (!this.made.has(key)) {
      this.made.set(key, await mintMany(this.keys, algorithm, count, join(this.folder, `${key}.tokens`), `${name}-${++this.sets}`))
    }
    return this.made.get(key)
  }

  /** Does something with a peer that was seen to do its work. */
  async with (name, setup, body) {
    if (PEERS[name].session) this.provider ??= await startProvider(this.folder)
    const peer = await Peer.start(name, { keys: this.keys, upstream: this.upstream, provider: this.provider, ...setup })
    try {
      await peer.check()
      return await body(peer)
    } finally {
      await peer.stop()
    }
  }
}

/** A row of `scenario`: `what` is measured with `who`, in some of the rounds. */
const row = (scenario, what, who, measure) => ({ scenario, what, who, measure })

/** The same in each round. */
const slice = (...all) => ({ ...row(...all), always: true })

const plain = name => slice('plain', 'plain', name, run => run.with(name, {}, peer => cost(peer, run.seconds)))

function warm (name, algorithm) {
  return slice('warm', algorithm, name, async run => {
    const load = PEERS[name].session ? {} : { tokens: await run.tokens(algorithm, WARM, 'warm') }
    return run.with(name, { algorithm }, peer => cost(peer, run.seconds, load))
  })
}

function cold (name, algorithm) {
  return slice('cold', `${algorithm}, each new`, name, async run => {
    const [before, tokens] = [await run.tokens(algorithm, WARM, 'warm'), await run.tokens(algorithm, COLD[algorithm], 'cold')]
    return run.with(name, { algorithm }, peer => costOnce(peer, tokens, before))
  })
}

/** One of the parts by itself, in microseconds. */
function alone (algorithm, part, what) {
  return slice('cold', `${algorithm}, ${what}`, 'alone', async run => {
    const file = join(run.folder, `${algorithm}.toml`)
    writeFileSync(file, settings({ keys: run.keys, algorithm, port: 1, adminPort: 2, upstream: 3 }))
    const tokens = await run.tokens(algorithm, WARM, 'warm')
    return { cpu: Number(await runOn(MEASURED, process.env.BENCH_PARTS, [file, tokens, part, 'seconds=1'], 30)) }
  })
}

const http2 = (name, algorithm) => slice('tls', `HTTP/2${algorithm ? ` ${algorithm}` : ''}`, name,
  run => run.with(name, { tls: true, algorithm }, peer => costHttp2(peer, run.seconds)))

const connections = name => row('handshakes', 'new TLS connection', name,
  run => run.with(name, { tls: true }, peer => costConnection(peer, 1500)))

/** With one worker, and with two, when as much is asked as the processors do: each new ES256 token is work enough. */
function workers (count) {
  const processors = count === 1 ? MEASURED : `${MEASURED},${LOAD}`
  return slice('workers', count === 1 ? 'one worker' : 'two workers', OWN, async run => {
    const [before, tokens] = [await run.tokens('ES256', WARM, 'warm'), await run.tokens('ES256', COLD.ES256, 'cold')]
    const where = count === 1 ? LOAD : processors
    return run.with(OWN, { algorithm: 'ES256', processors }, peer => costTogether(peer, tokens, before, where))
  })
}

/** KiB for each connection that waits after one request. */
function idle (kind, name) {
  const count = kind === 'http1' ? 2000 : 1000
  const words = { http1: 'HTTP/1.1', tls: 'TLS, HTTP/1.1', http2: 'TLS, HTTP/2' }
  return row('idle', words[kind], name, run => run.with(name, { tls: kind !== 'http1' }, async peer => {
    const log = join(peer.folder, 'idle.log')
    const holder = join(tests, 'bench', 'lib', 'idle.mjs')
    const before = share(peer.child)
    const wide = 'ulimit -n "$(ulimit -Hn)"; exec "$0" "$@"'
    const client = start('bash', ['-c', wide, process.execPath, holder, String(peer.port), '/open/page', kind, String(count)], log)
    await until('the connections are open', () => alive(client) && readFileSync(log, 'utf8').includes(`open ${count}`), 60)
    await sleep(1000)
    const kib = (share(peer.child) - before) / count
    client.stdin.end()
    await until('the client has ended', () => client.exitCode !== null, 10)
    assert.match(readFileSync(log, 'utf8'), /gone 0\n/, `${name}: connections were closed meanwhile`)
    return { kib }
  }))
}

/** MiB at the start, and at most while requests with and without tokens come in. */
const memory = row('memory', 'memory', OWN, async run => {
  const tokens = await run.tokens('RS256', WARM, 'warm')
  return run.with(OWN, { algorithm: 'RS256' }, async peer => {
    await cost(peer, 3, { tokens })
    return { start: peer.heldAtStart / 1024, load: peak(peer.child) / 1024 }
  })
})

/** A stream of some MiB: seconds of processor time per GiB, and by how much memory grew. */
function stream (way, name) {
  return row('stream', `stream ${way}`, name, run => run.with(name, {}, async peer => {
    const bytes = Number(process.env.BENCH_MIB ?? 1024) * 1048576
    const file = join(run.folder, 'big')
    writeFileSync(file, '')
    truncateSync(file, bytes)
    forgetPeak(peer.child)
    const [before, held] = [spent(peer.child), resident(peer.child)]
    const told = ['-sS', '--noproxy', '*', '-o', '/dev/null', '-w', '%{http_code} %{size_download} %{size_upload}', '-H', `Host: app.bench.example`]
    const args = way === 'down'
      ? [`http://127.0.0.1:${peer.port}/open/down/${bytes}`]
      : ['-H', 'Expect:', '-X', 'POST', '-T', file, `http://127.0.0.1:${peer.port}/open/up`]
    const [status, down, up] = (await runOn(LOAD, 'curl', [...told, ...args], 120)).split(' ').map(Number)
    rmSync(file)
    assert.equal(status, 200)
    assert.ok((way === 'down' ? down : up) === bytes, `${name}: ${down} bytes down, ${up} up`)
    const gib = bytes / 1073741824
    return { perGib: (spent(peer.child) - before) / gib, grown: (peak(peer.child) - held) / 1024 }
  }))
}

/** Milliseconds from the start to the first 200: the median of five starts. */
const begin = name => row('start', 'first 200', name, async run => {
  const took = []
  for (let times = 0; times < 5; times++) {
    const peer = await Peer.start(name, { keys: run.keys, upstream: run.upstream, startIt: start })
    await peer.stop()
    took.push(peer.startedIn)
  }
  return { ms: median(took) }
})

/**
 * 200,000 live tokens: what the memory of verified tokens grows by, and what a token that is there costs then: one process with few,
 * and one that was sent all of them and holds as many as fit, in turns.
 */
const many = row('many', '200,000 tokens', OWN, async run => {
  const [often, all] = [await run.tokens('HS256', WARM, 'warm'), await run.tokens('HS256', LIVE, 'live')]
  const setup = { algorithm: 'HS256' }
  return run.with(OWN, setup, few => run.with(OWN, setup, async full => {
    await cost(full, 1, { tokens: often })
    const held = resident(full.child)
    await sendOnce(full, all)
    const grown = (resident(full.child) - held) / 1024
    const costs = new Map([[few, []], [full, []]])
    for (let turn = 0; turn < TURNS; turn++) {
      for (const [peer, found] of costs) found.push((await cost(peer, run.seconds, { tokens: often })).cpu)
    }
    return { few: median(costs.get(few)), full: median(costs.get(full)), grown }
  }))
})

const peers = Object.keys(PEERS).filter(name => !PEERS[name].aside)
/** Those that are measured in all that they do; of one with a session of its own, what requests cost is enough. */
const whole = peers.filter(name => !PEERS[name].session)
const checking = algorithm => peers.filter(name => PEERS[name].tokens.includes(algorithm))

export const SCENARIOS = {
  plain: peers.flatMap(name => name === 'floor' ? [plain(name), plain(POOLED)] : [plain(name)]),
  warm: [plain('nginx'), ...ALGORITHMS.flatMap(algorithm => checking(algorithm).map(name => warm(name, algorithm)))],
  cold: [plain('floor'), plain(OWN), ...ALGORITHMS.flatMap(algorithm => [
    cold('floor', algorithm), cold(OWN, algorithm), alone(algorithm, 'signature', 'signature alone'), alone(algorithm, 'verify', 'whole verification alone')])],
  tls: [...whole.map(name => http2(name)), ...whole.filter(name => PEERS[name].tokens.includes('RS256')).map(name => http2(name, 'RS256'))],
  handshakes: whole.map(connections),
  workers: [workers(1), workers(2)],
  idle: ['http1', 'tls', 'http2'].flatMap(kind => ['nginx', 'floor', OWN].map(name => idle(kind, name))),
  memory: [memory],
  stream: ['down', 'up'].flatMap(way => whole.map(name => stream(way, name))),
  start: ['nginx', OWN].map(begin),
  many: [many]
}
