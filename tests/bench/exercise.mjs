// Lets a Doorkeep do all that it does all day, so that its compiler can be told which way its code mostly goes. Started by
// deploy/optimize; what it measures is nothing.
// usage: DOORKEEP=PROGRAM node tests/bench/exercise.mjs
import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import { connect as connectHttp2 } from 'node:http2'
import { request as tlsRequest } from 'node:https'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { alive, freePorts, start, stop, stopAll } from '../lib/children.mjs'
import { Jar } from '../lib/fleet.mjs'
import { doorkeep, emptyFolder, output } from '../lib/places.mjs'
import { check, until } from '../lib/report.mjs'
import { send } from '../lib/wire.mjs'
import { ask } from './lib/asking.mjs'
import { settings } from './lib/peers.mjs'
import { ALGORITHMS, HOST, forgeries, makeKeys, mint } from './lib/tokens.mjs'

const ROUNDS = 150
const CONNECTIONS = 64
const BROWSER = [
  'User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0',
  'Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8',
  'Accept-Language: en-US,en;q=0.5', 'Accept-Encoding: gzip, deflate, br, zstd', 'Connection: keep-alive', 'Referer: http://app.bench.example/',
  'Upgrade-Insecure-Requests: 1', 'Sec-Fetch-Dest: document', 'Sec-Fetch-Mode: navigate', 'Sec-Fetch-Site: same-origin', 'Priority: u=0, i'
]

const folder = emptyFolder(output, 'exercise')
const keys = makeKeys(folder)

/** Answers like an app behind a proxy: with 1 KiB, with as much as the path says, and with what became of a body. */
async function startApp () {
  const app = createServer((asked, answer) => {
    let came = 0
    asked.on('error', () => {}).on('data', piece => { came += piece.length }).on('end', () => {
      const size = Number(/\/down\/(\d+)$/.exec(asked.url)?.[1] ?? 1024)
      const fields = { 'Content-Type': 'text/html; charset=utf-8', 'X-Upstream': 'app', 'Cache-Control': 'max-age=0', 'Set-Cookie': 'theirs=1; Path=/', 'X-Came': came }
      answer.writeHead(200, asked.url.includes('chunked') ? fields : { ...fields, 'Content-Length': size })
      answer.end(Buffer.alloc(size, 'x'))
    })
  })
  app.unref()
  app.keepAliveTimeout = 60_000
  await new Promise(resolve => app.listen(0, '127.0.0.1', resolve))
  return app.address().port
}

const upstream = await startApp()

/** A gateway with tokens of this kind, as long as `body` takes. */
async function withGateway (setup, body) {
  const port = await freePorts(3)
  const [adminPort, httpPort] = [port + 1, setup.tls ? port + 2 : port]
  const file = join(folder, `${port}.toml`)
  writeFileSync(file, settings({ keys, port, adminPort, httpPort, upstream, ...setup }))
  await running(['run', '--config', file], httpPort, () => body(port))
}

/** The program with these arguments, from when it answers at `port` until `body` is over; it ends by itself, and writes what was counted. */
async function running (args, port, body) {
  const log = join(folder, `${port}.log`)
  const child = start(doorkeep, args, log)
  await until('the gateway answers', async () => alive(child) && (await send({ port, path: '/' })).status > 0, 20)
  try {
    await body()
  } finally {
    await stop(child)
  }
  assert.equal(child.exitCode, 0, readFileSync(log, 'utf8').slice(-1000))
}

/** Tokens of one kind, over connections that stay and over new ones, with bodies both ways. */
const tokens = algorithm => withGateway({ algorithm }, async port => {
  const known = Array.from({ length: 50 }, (_, n) => mint(keys, algorithm, { jti: `known-${n}` }))
  const cookies = (await Promise.all(known)).map(token => `theme=dark; access_token=${token}; _ga=GA1.1.1234567890.1234567890`)
  let turn = 0
  const any = () => cookies[turn++ % cookies.length]
  const fresh = async () => `access_token=${await mint(keys, algorithm, { jti: `new-${turn++}` })}`
  const usual = { connections: CONNECTIONS }
  await ask(port, '/open/page', undefined, ROUNDS, usual)
  await ask(port, '/page', any, ROUNDS, usual)
  await ask(port, '/reports/2026/summary?page=2&sort=name', any, ROUNDS / 2, { ...usual, fields: BROWSER })
  await ask(port, '/page', fresh, 10, usual)
  const once = (path, more = {}) => send({ port, path, headers: [['Host', HOST], ['Cookie', any()]], ...more })
  for (let n = 0; n < 100; n++) {
    const [page, posted] = await Promise.all([once('/chunked'), once('/form', { method: 'POST', body: 'a=b&'.repeat(n) })])
    assert.deepEqual([page.status, posted.status, posted.headers['x-came']], [200, 200, String(4 * n)])
  }
  for (let n = 0; n < 5; n++) assert.equal((await once(`/open/down/${4 << 20}`)).text.length, 4 << 20)
  for (const token of Object.values(await forgeries(keys, algorithm))) {
    const answer = await send({ port, path: '/page', headers: [['Host', HOST], ['Accept', 'text/html'], ['Cookie', `access_token=${token ?? ''}`]] })
    assert.equal(answer.status, 302)
  }
})

/** TLS: HTTP/2 with many streams, and HTTP/1.1, each on new connections. */
const encrypted = () => withGateway({ algorithm: 'RS256', tls: true }, async port => {
  const cookie = `access_token=${await mint(keys, 'RS256')}`
  const options = { host: '127.0.0.1', servername: HOST, rejectUnauthorized: false }
  for (let n = 0; n < 20; n++) {
    const client = connectHttp2(`https://${HOST}:${port}`, options)
    const page = path => new Promise((resolve, reject) => {
      const stream = client.request({ ':path': path, ':authority': HOST, cookie })
      let status
      stream.on('response', head => { status = head[':status'] }).on('data', () => {}).on('error', reject).on('end', () => resolve(status))
      stream.end()
    })
    for (let round = 0; round < 20; round++) {
      const statuses = await Promise.all(Array.from({ length: 20 }, (_, at) => page(at % 2 ? '/page' : '/open/page')))
      assert.deepEqual([...new Set(statuses)], [200])
    }
    client.destroy()
    const status = await new Promise((resolve, reject) => {
      const asked = tlsRequest({ ...options, port, path: '/page', headers: { Host: HOST, Cookie: cookie }, agent: false })
      asked.on('error', reject).on('response', answer => answer.resume().on('end', () => resolve(answer.statusCode))).end()
    })
    assert.equal(status, 200)
  }
})

/** Sessions from their sign-in by way of renewals, tabs side by side, to their sign-out. */
async function sessions () {
  const port = await freePorts(4)
  const host = ['Host', `localhost:${port}`]
  const origin = `http://localhost:${port}`
  const person = async () => {
    const jar = new Jar()
    const get = async (path, more = {}) => {
      const answer = await send({ port, path, ...more, headers: [host, ['Accept', 'text/html'], ['Sec-Fetch-Site', 'same-origin'], ['Cookie', jar.line()], ...more.headers ?? []] })
      jar.take(answer)
      return answer
    }
    const page = `/.doorkeep/sign-in?redirect=${encodeURIComponent(`${origin}/`)}`
    const mark = /name="form" value="([^"]+)"/.exec((await get(page)).text)[1]
    const form = new URLSearchParams({ form: mark, user: 'asha', password: 'demo-asha' }).toString()
    const headers = [['Content-Type', 'application/x-www-form-urlencoded'], ['Origin', origin]]
    assert.equal((await get(page, { method: 'POST', body: form, headers })).status, 303)
    for (const end = Date.now() + 7000; Date.now() < end; await sleep(100)) {
      const tabs = await Promise.all([get('/'), get('/'), get('/')])
      for (const tab of tabs) assert.equal(tab.status, 200)
    }
    assert.equal((await get('/.doorkeep/sign-out', { method: 'POST', body: '', headers: [['Origin', origin]] })).status, 204)
  }
  await running(['demo', '--form', '--port', String(port), '--access-life', '2s'], port, async () => {
    // At the same time, but for signing in: so many from one network would have to wait.
    const people = []
    for (let n = 0; n < 8; n++) {
      people.push(person())
      await sleep(150)
    }
    await Promise.all(people)
  })
}

for (const algorithm of ALGORITHMS) await check(`tokens: ${algorithm}`, () => tokens(algorithm), 240)
await check('TLS and HTTP/2', encrypted, 240)
await check('sessions', sessions, 120)
await stopAll()
