// The gateway under attack: what other clients notice of it, what memory it costs, and whether all of it is given back.
// usage: node tests/edge/run.mjs [ATTACK]...   without a name: all of them
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { Agent, request } from 'node:http'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { alive, freePorts, start, stop, stopAll } from '../lib/children.mjs'
import { forEverybody, selfSigned } from '../lib/gateway.mjs'
import { doorkeep, emptyFolder, output, tests } from '../lib/places.mjs'
import { check, until } from '../lib/report.mjs'
import { send } from '../lib/wire.mjs'

const SECONDS = 6
const MOST_P99 = 250 // milliseconds
const MOST_MEMORY = name => name in IDLE ? 200 : 128 // MiB, while the attack goes on
const MOST_LEFT = 32 // MiB, of what the process had when it was new, once the attack is over
const LONGER = { 'idle-connections': 12, 'idle-after-a-request': 14, 'idle-tls': 10, 'idle-http2': 10 }
const IDLE = { 'idle-connections': 10_000, 'idle-after-a-request': 10_000, 'idle-tls': 2000, 'idle-http2': 5000 }

const folder = emptyFolder(output, 'edge')
const at = name => join(folder, name)
/** Starts a program that may open many sockets. */
const startWide = (program, args, log) =>
  start('bash', ['-c', `ulimit -n "$(ulimit -Hn)"; exec "$0" "$@"`, program, ...args], log)

const [port, tls, appPort] = [await freePorts(), await freePorts(), await freePorts()]
const app = startWide(process.execPath, [join(tests, 'edge', 'app.mjs'), String(appPort)], at('app.log'))
writeFileSync(at('doorkeep.toml'), forEverybody({
  listen: `
http = "127.0.0.1:${port}"
https = "127.0.0.1:${tls}"
connections = 20000
connections_per_client = 20000
head = "4s"
handshake = "4s"
body_idle = "4s"
write = "4s"`,
  more: `${selfSigned(folder)}\n[log]\nlevel = "warn"`,
  upstream: appPort
}))
const gateway = startWide(doorkeep, ['run', '--config', at('doorkeep.toml')], at('doorkeep.log'))
await until('the gateway answers', async () =>
  alive(gateway) && alive(app) && (await send({ port })).status === 200)

const memory = () => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${gateway.pid}/status`, 'utf8'))[1]) / 1024
const fresh = memory()
const descriptors = () => readdirSync(`/proc/${gateway.pid}/fd`).length

/** Somebody else, who asks again and again; the milliseconds that each answer took. */
async function somebodyElse (ends) {
  const agent = new Agent({ keepAlive: true, maxSockets: 4 })
  const took = []
  const ask = () => new Promise((resolve, reject) => {
    const asked = request({ host: '127.0.0.1', port, path: '/other', agent, timeout: 5000 }, answer => {
      answer.resume()
      answer.on('end', () => answer.statusCode === 200 ? resolve() : reject(new Error(`status ${answer.statusCode}`)))
      answer.on('error', reject)
    })
    asked.on('timeout', () => asked.destroy(new Error('no answer within 5 s')))
    asked.on('error', reject)
    asked.end()
  })
  await Promise.all(Array.from({ length: 4 }, async () => {
    while (!ends()) {
      const since = performance.now()
      await ask()
      took.push(performance.now() - since)
      await sleep(5)
    }
  }))
  agent.destroy()
  return took.sort((a, b) => a - b)
}

async function attack (name) {
  const before = { memory: memory(), descriptors: descriptors() }
  const seconds = LONGER[name] ?? SECONDS
  const log = at(`${name}.log`)
  const attacker = startWide(process.execPath, [join(tests, 'edge', 'attack.mjs'), name, String(port), String(tls), String(seconds)], log)
  const peak = { memory: 0, descriptors: 0 }
  const samples = []
  const watching = setInterval(() => {
    samples.push(memory())
    peak.memory = Math.max(peak.memory, samples.at(-1))
    peak.descriptors = Math.max(peak.descriptors, descriptors())
  }, 100)
  const ended = () => attacker.exitCode !== null || attacker.signalCode !== null
  const took = await somebodyElse(ended).finally(() => clearInterval(watching))
  await stop(attacker)
  const since = performance.now()
  const back = await until('descriptors are given back', () => descriptors() <= before.descriptors + 8 && performance.now(), 20)
    .catch(() => undefined)
  const returned = await until('memory is given back', () => memory() <= fresh + MOST_LEFT && performance.now(), 15)
    .catch(() => undefined)
  const left = memory()
  const p99 = took[Math.floor(took.length * 0.99)]
  const grown = peak.memory - before.memory
  const did = /sent .*/.exec(readFileSync(log, 'utf8'))?.[0]
  const each = name in IDLE ? ` (${((samples.at(-8) - fresh) * 1024 / IDLE[name]).toFixed(1)} KiB each at rest, at most)` : ''
  console.log(`   ${name}: p50 ${took[took.length >> 1].toFixed(1)} ms, p99 ${p99.toFixed(1)} ms of ${took.length} answers to somebody else; ` +
    `memory ${before.memory.toFixed(0)} MiB + ${grown.toFixed(0)}${each}, ${left.toFixed(0)}${returned ? ` after ${((returned - since) / 1000).toFixed(1)} s` : ''}; descriptors ${before.descriptors}, ${peak.descriptors}, ${descriptors()}` +
    `${back ? ` after ${((back - since) / 1000).toFixed(1)} s` : ''}; the attacker ${did}`)
  assert.ok(did && !did.includes(' 0 connections'), 'the attack did not take place')
  alive(gateway)
  assert.ok(p99 <= MOST_P99, `p99 is ${p99} ms`)
  assert.ok(grown <= MOST_MEMORY(name), `memory grew by ${grown} MiB`)
  assert.ok(back, `descriptors: ${before.descriptors} before, ${descriptors()} after`)
  assert.ok(returned, `memory: ${fresh} MiB when new, ${left} MiB after the attack`)
  if (name in IDLE) assert.ok(peak.descriptors > 0.9 * IDLE[name], `only ${peak.descriptors} descriptors were open`)
}

const names = process.argv.length > 2
  ? process.argv.slice(2)
  : execFileSync(process.execPath, [join(tests, 'edge', 'attack.mjs'), '--names'], { encoding: 'utf8' }).trim().split('\n')
for (const name of names) await check(`under attack by ${name}`, () => attack(name), 60)
await stopAll()
