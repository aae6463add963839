// The life of the program under load: it is stopped, reloaded, and started on sockets that it was given, and no request fails.
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { Agent, request } from 'node:http'
import { connect as connect2 } from 'node:http2'
import { connect } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect as connectTls } from 'node:tls'
import { alive, freePorts, signal, start, stopAll } from '../lib/children.mjs'
import { forEverybody, selfSigned } from '../lib/gateway.mjs'
import { doorkeep, emptyFolder, output, tests } from '../lib/places.mjs'
import { check, until } from '../lib/report.mjs'
import { send } from '../lib/wire.mjs'

const STOPS = 3
const DELAY = 2000 // milliseconds in which it is not ready and still accepts
const RELOADS = 20
const REQUESTS = 2000
const MOST_MEMORY = 48 // MiB that twenty reloads may leave behind
const UPLOAD = randomBytes(256 * 1024)
const HASH = createHash('sha256').update(UPLOAD).digest('hex')

const folder = emptyFolder(output, 'life')
const at = name => join(folder, name)
const certificates = Object.fromEntries(['old', 'new'].map(name => [name, selfSigned(folder, name, `${name}.test`)]))
const appPort = await freePorts()
const app = start(process.execPath, [join(tests, 'life', 'app.mjs'), String(appPort)], at('app.log'))
await until('the app answers', async () => alive(app) && (await send({ port: appPort })).status === 200)

/** Settings of which the parts that a reload changes are named. */
function settings ({ port, tls, admin, certificate: shown = 'old', guarded = false, more = '' }) {
  return forEverybody({
    top: more,
    listen: `http = "127.0.0.1:${port}"\nadmin = "127.0.0.1:${admin}"${tls ? `\nhttps = "127.0.0.1:${tls}"` : ''}`,
    more: `
${tls ? certificates[shown] : ''}
[drain]
delay = "${DELAY}ms"
timeout = "4s"
[log]
format = "json"
level = "info,access=off"
[session.renew]
timeout = "2s"
give_up = "3s"`,
    upstream: appPort,
    rules: `[[site.rule]]\npath = "/flips/*"\naccess = "${guarded ? 'required' : 'public'}"`
  })
}

/** As editors and configuration tools do: the file is there whole or not at all. */
function write (file, text) {
  writeFileSync(`${file}.draft`, text)
  renameSync(`${file}.draft`, file)
}

/** A gateway of its own, once it serves. */
async function serving (name) {
  const port = await freePorts(3)
  const ports = { port, tls: port + 1, admin: port + 2 }
  const file = at(`${name}.toml`)
  write(file, settings(ports))
  const program = start(doorkeep, ['run', '--config', file], at(`${name}.log`))
  await until('the gateway serves', async () => alive(program) && alive(app) && (await send({ port: ports.admin, path: '/readyz' })).status === 200)
  return { program, file, ...ports }
}

const exited = program => new Promise(resolve => {
  if (program.exitCode !== null) resolve(program.exitCode)
  program.on('exit', (code, name) => resolve(code ?? name))
})

/** One request by HTTP/1.1; throws unless its answer is whole and right. */
const ask1 = (port, agent) => (path, body) => new Promise((resolve, reject) => {
  const asked = request({ host: '127.0.0.1', port, path, agent, method: body ? 'POST' : 'GET', timeout: 10_000 }, answer => {
    const chunks = []
    answer.on('data', chunk => chunks.push(chunk))
    answer.on('error', reject)
    answer.on('end', () => answer.complete ? resolve({ status: answer.statusCode, text: Buffer.concat(chunks).toString() }) : reject(new Error('cut')))
  })
  asked.on('timeout', () => asked.destroy(new Error('no answer within 10 s')))
  asked.on('error', reject)
  asked.end(body)
})

/** The same by HTTP/2. */
const ask2 = session => (path, body) => new Promise((resolve, reject) => {
  const asked = session.request({ ':path': path, ':method': body ? 'POST' : 'GET' })
  let status
  const chunks = []
  asked.setTimeout(10_000, () => asked.destroy(new Error('no answer within 10 s')))
  asked.on('response', head => { status = head[':status'] })
  asked.on('data', chunk => chunks.push(chunk))
  asked.on('error', reject)
  asked.on('end', () => resolve({ status, text: Buffer.concat(chunks).toString() }))
  asked.end(body)
})

/** Asks and looks at the answer. */
async function right (ask, path) {
  const upload = path === '/take'
  const { status, text } = await ask(path, upload ? UPLOAD : undefined)
  assert.equal(status, 200, `${path}: status ${status}`)
  if (upload) assert.equal(text, HASH)
  else assert.equal(text.length, path.startsWith('/drip') ? 1000 : 64, `${path}: ${text.length} bytes`)
}

/** An open WebSocket. */
async function webSocket (port) {
  const socket = connect(port, '127.0.0.1')
  let seen = Buffer.alloc(0)
  socket.on('data', bytes => { seen = Buffer.concat([seen, bytes]) })
  socket.on('error', () => {})
  let over = false
  socket.on('end', () => { over = true; socket.end() })
  socket.write(`GET /socket HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n` +
    `Sec-WebSocket-Key: ${randomBytes(16).toString('base64')}\r\nOrigin: http://127.0.0.1\r\n\r\n`)
  await until('the WebSocket is open', () => seen.includes('\r\n\r\n'))
  assert.match(seen.toString('latin1'), /^HTTP\/1\.1 101 /)
  seen = Buffer.alloc(0)
  const mask = Buffer.from([1, 2, 3, 4])
  return {
    echoes: async () => {
      const text = Buffer.from(randomBytes(6).toString('hex'))
      seen = Buffer.alloc(0)
      socket.write(Buffer.concat([Buffer.from([0x81, 0x80 | text.length]), mask, text.map((byte, n) => byte ^ mask[n % 4])]))
      await until('an echo', () => seen.length >= 2 + text.length, 5, 5)
      assert.deepEqual(seen, Buffer.concat([Buffer.from([0x81, text.length]), text]))
      seen = Buffer.alloc(0)
    },
    /** The code of the close frame, once the other end has closed. */
    left: async () => {
      await until('the WebSocket is closed', () => over, 10, 20)
      return seen[0] === 0x88 ? seen.readUInt16BE(2) : undefined
    }
  }
}

/** Clients that ask again and again as long as `goes()`; how many answers each kind of client had. Any fault is thrown. */
async function load ({ port, tls }, goes, pause) {
  const agent = new Agent({ keepAlive: true, maxSockets: 64 })
  const sessions = [connect2(`https://127.0.0.1:${tls}`, { rejectUnauthorized: false }), connect2(`http://127.0.0.1:${port}`)]
  for (const session of sessions) session.on('error', () => {})
  const short = () => `/wait/${Math.floor(Math.random() * 20)}`
  const kinds = {
    'HTTP/1.1': { ask: ask1(port, agent), paths: [short], clients: 6 },
    'new connections': { ask: ask1(port, false), paths: [short], clients: 2 },
    'HTTP/2 by TLS': { ask: ask2(sessions[0]), paths: [short], clients: 4 },
    'HTTP/2': { ask: ask2(sessions[1]), paths: [short, () => '/take'], clients: 2 },
    slow: { ask: ask1(port, agent), paths: [() => '/drip/4000', () => '/wait/4000', () => '/take'], clients: 6 },
    'slow by HTTP/2': { ask: ask2(sessions[0]), paths: [() => '/drip/4000', () => '/take'], clients: 4 }
  }
  const had = Object.fromEntries(Object.keys(kinds).map(kind => [kind, 0]))
  const clients = Object.entries(kinds).flatMap(([kind, { ask, paths, clients }]) => Array.from({ length: clients }, async (_, n) => {
    for (let turn = n; goes(); turn++) {
      await right(ask, paths[turn % paths.length]())
      had[kind]++
      await sleep(pause)
    }
  }))
  const ended = await Promise.allSettled(clients)
  agent.destroy()
  for (const session of sessions) session.destroy()
  const faults = ended.filter(({ status }) => status === 'rejected').map(({ reason }) => reason)
  return { had, faults }
}

const sum = had => Object.values(had).reduce((a, b) => a + b, 0)
const shown = had => Object.entries(had).map(([kind, count]) => `${kind} ${count}`).join(', ')

async function stops (n) {
  const gateway = await serving(`stop-${n}`)
  const socket = await webSocket(gateway.port)
  await socket.echoes()
  let [ready, accepted, open] = [true, false, 0]
  // As a load balancer does: whoever is not ready gets no new requests. What is under way by then has to be finished.
  const loading = load(gateway, () => ready, 2)
  await sleep(800)
  const code = exited(gateway.program)
  const told = performance.now()
  signal(gateway.program, 'SIGTERM')
  await until('it is not ready', async () => (await send({ port: gateway.admin, path: '/readyz' })).status === 503, 5, 5)
  ready = false
  accepted = (await send({ port: gateway.port, path: '/wait/0' })).status === 200
  const { had, faults } = await loading
  open = performance.now() - told
  const left = await socket.left()
  const exit = await code
  console.log(`   stop ${n}: ${sum(had)} answers (${shown(had)}), ${faults.length} failed; the last one ${(open / 1000).toFixed(1)} s after SIGTERM, ` +
    `the end after ${((performance.now() - told) / 1000).toFixed(1)} s; WebSocket ${left}; exit ${exit}`)
  assert.deepEqual(faults.map(String), [])
  assert.ok(accepted, 'it accepted nothing although others could not know yet')
  assert.ok(open > DELAY, 'nothing was under way when it stopped accepting')
  assert.deepEqual([left, exit], [1001, 0])
}

const counted = async (admin, outcome) => {
  const { text } = await send({ port: admin, path: '/metrics' })
  return Number(new RegExp(`doorkeep_reloads_total\\{outcome="${outcome}"\\} (\\d+)`).exec(text)?.[1] ?? 0)
}

const certificate = tls => new Promise((resolve, reject) => {
  const socket = connectTls({ port: tls, host: '127.0.0.1', rejectUnauthorized: false }, () => {
    resolve(socket.getPeerCertificate().subject.CN)
    socket.destroy()
  })
  socket.on('error', reject)
})

const resident = program => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${program.pid}/status`, 'utf8'))[1]) / 1024

async function reloads () {
  const gateway = await serving('reload')
  const { program, file, port, tls, admin } = gateway
  const socket = await webSocket(port)
  const kept = new Agent({ keepAlive: true, maxSockets: 1 })
  const flips = async () => (await ask1(port, kept)('/flips/0')).status
  let [done, answers] = [0, 0]
  const loading = load(gateway, () => done < RELOADS || answers++ < REQUESTS, 2)
  await sleep(500)
  const before = resident(program)
  const [BROKEN, RENEWED] = [7, 12]
  let wanted = 200
  for (let n = 1; n <= RELOADS; n++) {
    const names = { port, tls, admin, certificate: n < RENEWED ? 'old' : 'new' }
    const guarded = n % 2 === 1
    write(file, n === BROKEN ? `${settings({ ...names, guarded: !guarded })}\nnonsense = 1\n[[site]]` : settings({ ...names, guarded }))
    if (n !== BROKEN) wanted = guarded ? 401 : 200
    signal(program, 'SIGHUP')
    await until(`reload ${n}`, async () => await counted(admin, 'new') + await counted(admin, 'kept') === n, 10, 10)
    assert.equal(await flips(), wanted, `after reload ${n} the next request on an open connection`)
    assert.equal(await certificate(tls), n < RENEWED ? 'old.test' : 'new.test', `after reload ${n}`)
    await socket.echoes()
    done = n
  }
  kept.destroy()
  const { had, faults } = await loading
  const grown = resident(program) - before
  const [taken, refused] = [await counted(admin, 'new'), await counted(admin, 'kept')]
  console.log(`   ${RELOADS} reloads: ${sum(had)} answers (${shown(had)}), ${faults.length} failed; ${taken} taken, ${refused} refused; ` +
    `memory ${before.toFixed(0)} MiB + ${grown.toFixed(0)}`)
  assert.deepEqual(faults.map(String), [])
  assert.ok(sum(had) >= REQUESTS, `only ${sum(had)} answers`)
  assert.deepEqual([taken, refused], [RELOADS - 1, 1])
  assert.ok(grown < MOST_MEMORY, `memory grew by ${grown} MiB`)
  const log = readFileSync(at('reload.log'), 'utf8')
  assert.match(log, /"key":"site\[1\]\.rule\[2\]\.nonsense"/)
  assert.match(log, /"key":"site\[2\]\.host"/, 'every problem is told')
  const code = exited(program)
  signal(program, 'SIGTERM')
  assert.deepEqual([await socket.left(), await code], [1001, 0])
}

async function activation () {
  // The addresses of the settings are taken: whoever opened them would fail.
  const file = at('passed.toml')
  write(file, settings({ port: appPort, admin: 0 }).replace(/^delay = .*$/m, '').replace(/^admin = .*$/m, `admin = "0.0.0.0:${appPort}"`))
  const manager = start('python3', [join(tests, 'life', 'manager.py'), 'http:admin', doorkeep, 'run', '--config', file], at('passed.log'))
  const said = () => readFileSync(at('passed.log'), 'utf8')
  const [port, admin] = await until('the manager listens', () => /^(\d+) (\d+)$/m.exec(said())?.slice(1).map(Number))
  // Whoever comes before the program does is served once it is there.
  const early = send({ port, path: '/wait/0', seconds: 20 })
  manager.stdin.write('start\n')
  assert.equal((await early).status, 200)
  assert.equal((await send({ port: admin, path: '/readyz' })).status, 200)
  // A restart refuses nobody: the manager holds the sockets. Whose connection was let in and ends without an answer, because its
  // request was slow to come, asks again, as browsers do (RFC 9112 §9.3.1).
  let going = true
  let [asked, again] = [0, 0]
  const ask = () => send({ port, path: '/wait/5', seconds: 20 }).catch(fault => {
    if (fault.code !== 'ECONNRESET') throw fault
    again++
    return send({ port, path: '/wait/5', seconds: 20 })
  })
  const asking = Array.from({ length: 4 }, async () => {
    while (going) {
      assert.equal((await ask()).status, 200)
      asked++
    }
  })
  const faults = Promise.allSettled(asking)
  for (const n of [1, 2]) {
    await sleep(200)
    manager.stdin.write('stop\nstart\n')
    await until(`restart ${n}`, () => said().split('stopped 0').length > n && said().split('started').length > n + 1, 20)
    await until('it serves again', async () => (await send({ port, path: '/wait/0' })).status === 200)
  }
  going = false
  const failed = (await faults).filter(({ status }) => status === 'rejected').map(({ reason }) => String(reason))
  console.log(`   on passed sockets: ${asked} answers through 2 restarts, ${failed.length} failed, ${again} asked again`)
  assert.deepEqual(failed, [])
  manager.stdin.write('stop\n')
  await until('it has stopped', () => said().split('stopped 0').length === 4, 20)
  manager.stdin.end()
}

for (let n = 1; n <= STOPS; n++) {
  await check(`stop ${n} under load: what is under way is finished, WebSockets are told, exit 0`, () => stops(n), 60)
}
await check(`${RELOADS} reloads under load: no request fails, each counts at once, a broken file changes nothing`, reloads, 90)
await check('on sockets that a service manager passes, nobody is refused, not even while it restarts', activation, 60)
await stopAll()
