// Opens connections to a peer, makes one request on each, and holds them until told to stop: a process of its own, because
// it has its own limit of descriptors. usage: node idle.mjs PORT PATH http1|tls|http2 COUNT
import { once } from 'node:events'
import { connect as connectHttp2 } from 'node:http2'
import { connect } from 'node:net'
import { connect as connectTls } from 'node:tls'
import { HOST } from './tokens.mjs'

const [port, path, kind, count] = [Number(process.argv[2]), process.argv[3], process.argv[4], Number(process.argv[5])]
const options = { host: '127.0.0.1', port, servername: HOST, rejectUnauthorized: false }

/** One connection whose request was answered. */
async function open () {
  if (kind === 'http2') {
    const session = connectHttp2(`https://${HOST}:${port}`, { ...options, host: '127.0.0.1', createConnection: () => connectTls({ ...options, ALPNProtocols: ['h2'] }) })
    const stream = session.request({ ':path': path, ':authority': HOST })
    const [headers] = await once(stream, 'response')
    if (headers[':status'] !== 200) throw new Error(`status ${headers[':status']}`)
    stream.resume()
    await once(stream, 'end')
    return session
  }
  const socket = kind === 'tls' ? connectTls({ ...options, ALPNProtocols: ['http/1.1'] }) : connect(options)
  await once(socket, kind === 'tls' ? 'secureConnect' : 'connect')
  socket.write(`GET ${path} HTTP/1.1\r\nHost: ${HOST}\r\nUser-Agent: idle\r\n\r\n`)
  let said = ''
  for await (const [piece] of iterate(socket)) {
    said += piece.toString('latin1')
    const end = said.indexOf('\r\n\r\n')
    if (!said.startsWith('HTTP/1.1 200'.slice(0, said.length))) throw new Error(said)
    if (end >= 0 && said.length >= end + 4 + 1024) break
  }
  return socket
}

/** What a socket reads, without ending it when nobody looks any more. */
async function * iterate (socket) {
  while (true) yield await once(socket, 'data')
}

const held = []
while (held.length < count) {
  held.push(...await Promise.all(Array.from({ length: Math.min(50, count - held.length) }, open)))
}
let gone = 0
for (const connection of held) connection.on('close', () => gone++)
console.log(`open ${held.length}`)
process.stdin.resume()
await once(process.stdin, 'end')
console.log(`gone ${gone}`)
process.exit(0)
