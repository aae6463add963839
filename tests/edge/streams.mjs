// A gibibyte up and one down at the same time, by HTTP/1.1 and HTTP/2, with TLS and without: each byte arrives, the gateway's
// memory hardly grows, and whoever reads slowly slows down the one that writes.
import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { alive, freePorts, start, stopAll } from '../lib/children.mjs'
import { forEverybody, selfSigned } from '../lib/gateway.mjs'
import { doorkeep, emptyFolder, output, tests } from '../lib/places.mjs'
import { check, until } from '../lib/report.mjs'
import { send } from '../lib/wire.mjs'

const MOST_MEMORY = 16 // MiB
/** Most bytes that the system holds in one direction of a connection (tcp(7)). */
const kernel = ['rmem', 'wmem'].map(which => Number(readFileSync(`/proc/sys/net/ipv4/tcp_${which}`, 'utf8').split(/\s+/)[2]))
const MOST_AHEAD = (2 * (kernel[0] + kernel[1])) / 2 ** 20 + 4 // MiB: what two connections hold in the system, and the gateway's own
const LONGEST = 60 // seconds for one pair of streams

const folder = emptyFolder(output, 'streams')
const at = name => join(folder, name)
const end = join(tests, 'edge', 'stream.mjs')
const [port, tls, appPort] = [await freePorts(), await freePorts(), await freePorts()]
const app = start(process.execPath, [end, 'app', String(appPort)], at('app.log'))
writeFileSync(at('doorkeep.toml'), forEverybody({
  listen: `http = "127.0.0.1:${port}"\nhttps = "127.0.0.1:${tls}"\nbody = "1GiB"`,
  more: `${selfSigned(folder)}\n[log]\nlevel = "warn"`,
  upstream: appPort
}))
const gateway = start(doorkeep, ['run', '--config', at('doorkeep.toml')], at('doorkeep.log'))
await until('the gateway answers', async () =>
  alive(gateway) && alive(app) && (await send({ port })).status === 200)

/** A line of the process's status, in MiB: VmRSS is what it has, VmHWM the most that it had. */
const memory = line => Number(new RegExp(`${line}:\\s+(\\d+)`).exec(readFileSync(`/proc/${gateway.pid}/status`, 'utf8'))[1]) / 1024
const forgetPeak = () => writeFileSync(`/proc/${gateway.pid}/clear_refs`, '5')
const lines = log => readFileSync(log, 'utf8').split('\n').filter(Boolean).map(line => JSON.parse(line))

/** Starts one end; its last line once it has ended. */
function run (role, kind) {
  const log = at(`${role}-${kind}.log`)
  const child = start(process.execPath, [end, role, kind, String(kind.endsWith('tls') ? tls : port)], log)
  const ended = until(`${role} by ${kind} ends`, () => (child.exitCode ?? child.signalCode) !== null, LONGEST)
  return { log, ended: ended.then(() => lines(log).at(-1) ?? assert.fail(readFileSync(log, 'utf8'))) }
}

async function both (kind) {
  const before = memory('VmRSS')
  forgetPeak()
  const [up, down] = await Promise.all([run('up', kind).ended, run('down', kind).ended])
  const grown = memory('VmHWM') - before
  const rate = one => `${(1024 / one.seconds).toFixed(0)} MiB/s`
  console.log(`   ${kind}: up ${rate(up)}, down ${rate(down)}; memory ${before.toFixed(0)} MiB + ${grown.toFixed(1)} at most`)
  for (const one of [up, down]) assert.deepEqual([one.status, one.bytes, one.exact], [200, 1024 ** 3, true])
  assert.ok(grown <= MOST_MEMORY, `memory grew by ${grown} MiB`)
}

/** How far a writer comes while its reader has stopped, and that all of it arrives in the end. */
async function slow (role, kind) {
  const before = memory('VmRSS')
  forgetPeak()
  const running = run(role, kind)
  const reader = role === 'slow-down' ? running.log : at('app.log')
  const earlier = lines(reader).length
  const told = () => lines(reader).slice(earlier)
  const stopped = await until('the reader stops', () => told().find(line => line.stopped)?.stopped, 20)
  const written = async () => role === 'slow-down'
    ? JSON.parse((await send({ port, path: '/wrote' })).text).wrote
    : lines(running.log).findLast(line => line.wrote !== undefined)?.wrote ?? 0
  let most = 0
  while (!told().some(line => line.goesOn)) most = Math.max(most, await written())
  const result = await running.ended
  const ahead = (most - stopped) / 2 ** 20
  const grown = memory('VmHWM') - before
  console.log(`   ${role} by ${kind}: ${ahead.toFixed(1)} MiB ahead of a reader that stopped (at most ${MOST_AHEAD.toFixed(0)}); memory ${before.toFixed(0)} MiB + ${grown.toFixed(1)} at most`)
  assert.deepEqual([result.status, result.bytes, result.exact], [200, 1024 ** 3, true])
  assert.ok(ahead > 0 && ahead <= MOST_AHEAD, `${ahead} MiB were written ahead`)
  assert.ok(grown <= MOST_MEMORY, `memory grew by ${grown} MiB`)
}

for (const kind of ['http1', 'http2', 'http1-tls', 'http2-tls']) {
  await check(`a gibibyte up and one down by ${kind}`, () => both(kind), LONGEST + 5)
}
await check('a slow client slows down the app', () => slow('slow-down', 'http2-tls'), LONGEST + 5)
await check('a slow app slows down the client', () => slow('slow-up', 'http1'), LONGEST + 5)
await stopAll()
