// One end of a long stream: node stream.mjs app PORT serves; node stream.mjs up|down|slow-up|slow-down KIND PORT asks, where KIND is
// http1, http2, http1-tls or http2-tls. Each line of output is a JSON object.
import { once } from 'node:events'
import * as http1 from 'node:http'
import * as http2 from 'node:http2'
import * as https from 'node:https'
import { setTimeout as sleep } from 'node:timers/promises'

export const LENGTH = 1024 ** 3
/** What the slow ones take before they stop, in bytes. */
const SOME = 1 << 20
/** A length that no buffer or frame divides, so that bytes lost, doubled or swapped are not where they belong. */
const PERIOD = 1_048_573
const pattern = Buffer.alloc(2 * PERIOD)
for (let n = 0, seed = 1; n < PERIOD; n++) {
  seed = (Math.imul(seed, 1_103_515_245) + 12_345) & 0x7fffffff
  pattern[n] = pattern[n + PERIOD] = seed >>> 16
}

/** The next bytes from there on. */
const piece = from => pattern.subarray(from % PERIOD, from % PERIOD + Math.min(256 * 1024, LENGTH - from))
const say = object => process.stdout.write(`${JSON.stringify(object)}\n`)

/** Writes the whole of it, as fast as it is taken; `wrote` is told how far it has come. */
async function write (to, wrote) {
  for (let at = 0; at < LENGTH;) {
    const bytes = piece(at)
    at += bytes.length
    wrote(at)
    if (!to.write(bytes)) await once(to, 'drain')
  }
  to.end()
}

/** Reads to the end; whether each byte was the right one. */
async function read (from, took = () => {}) {
  let at = 0
  let exact = true
  for await (const bytes of from) {
    for (let n = 0; n < bytes.length; n += PERIOD) {
      const part = bytes.subarray(n, n + PERIOD)
      exact &&= part.compare(pattern, (at + n) % PERIOD, (at + n) % PERIOD + part.length) === 0
    }
    at += bytes.length
    await took(at)
  }
  return { bytes: at, exact: exact && at === LENGTH }
}

/** Stops reading for a while, once. */
function pausing (forHowLong) {
  let paused = false
  return async at => {
    if (paused || at < SOME) return
    paused = true
    say({ stopped: at })
    await sleep(forHowLong)
    say({ goesOn: true })
  }
}

function serve (port) {
  const server = http1.createServer(async (request, response) => {
    try {
      if (request.url === '/down') return await write(response, wrote => { server.wrote = wrote })
      if (request.url === '/wrote') return response.end(JSON.stringify({ wrote: server.wrote }))
      if (request.method !== 'POST') return response.end('here')
      response.end(JSON.stringify(await read(request, request.url === '/slow-up' ? pausing(3000) : undefined)))
    } catch (fault) {
      response.destroy(fault)
    }
  })
  server.requestTimeout = 0
  server.listen(port, '127.0.0.1')
}

/** A request by that protocol: where to write its body, and its answer's body once it has begun. */
function ask (kind, port, method, path) {
  const address = `${kind.endsWith('tls') ? 'https' : 'http'}://127.0.0.1:${port}`
  if (kind.startsWith('http2')) {
    const session = http2.connect(address, { rejectUnauthorized: false, settings: { initialWindowSize: 1 << 20 } })
    session.on('connect', () => session.setLocalWindowSize(1 << 20))
    const stream = session.request({ ':method': method, ':path': path })
    const answer = once(stream, 'response').then(([head]) => ({ status: head[':status'], body: stream }))
    return { stream, answer, end: () => session.close() }
  }
  const client = kind.endsWith('tls') ? https : http1
  const stream = client.request(`${address}${path}`, { method, agent: false, rejectUnauthorized: false })
  return { stream, answer: once(stream, 'response').then(([head]) => ({ status: head.statusCode, body: head })), end: () => {} }
}

async function down (kind, port, took) {
  const asked = ask(kind, port, 'GET', '/down')
  asked.stream.end()
  const { status, body } = await asked.answer
  const came = await read(body, took)
  asked.end()
  return { status, ...came }
}

async function up (kind, port, path, wrote = () => {}) {
  const asked = ask(kind, port, 'POST', path)
  const [{ status, text }] = await Promise.all([
    asked.answer.then(async ({ status, body }) => ({ status, text: Buffer.concat(await all(body)) })),
    write(asked.stream, wrote)
  ])
  asked.end()
  return { status, ...JSON.parse(text) }
}

async function all (body) {
  const pieces = []
  for await (const bytes of body) pieces.push(bytes)
  return pieces
}

const [role, kind, port] = process.argv.slice(2)
if (role === 'app') {
  serve(Number(kind))
} else {
  const since = performance.now()
  let wrote = 0
  const telling = role === 'slow-up' ? setInterval(() => say({ wrote }), 100) : undefined
  const result = role.endsWith('up')
    ? await up(kind, Number(port), `/${role}`, at => { wrote = at })
    : await down(kind, Number(port), role === 'slow-down' ? pausing(3000) : undefined)
  clearInterval(telling)
  say({ ...result, seconds: (performance.now() - since) / 1000 })
}
