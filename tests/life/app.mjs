// The app behind the gateway that is stopped and reloaded: slow answers, dripping ones, uploads, and a WebSocket that echoes.
import { createHash } from 'node:crypto'
import { createServer } from 'node:http'

const PIECES = 10
const app = createServer((request, response) => {
  const [, what, millis] = request.url.split('/')
  request.on('error', () => {})
  if (what === 'take') {
    const hash = createHash('sha256')
    request.on('data', bytes => hash.update(bytes))
    request.on('end', () => response.end(hash.digest('hex')))
    return
  }
  request.resume()
  if (what !== 'drip') return setTimeout(() => response.end('x'.repeat(64)), Number(millis ?? 0))
  let left = PIECES
  const dripping = setInterval(() => {
    response.write('x'.repeat(100))
    if (--left > 0) return
    clearInterval(dripping)
    response.end()
  }, Number(millis) / PIECES)
})
app.on('upgrade', (request, socket, head) => {
  const accept = createHash('sha1').update(request.headers['sec-websocket-key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11').digest('base64')
  socket.on('error', () => {})
  socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`)
  // What comes is masked, what goes is not: each short text frame goes back as it was meant (RFC 6455 §5.2).
  socket.on('data', bytes => {
    if ((bytes[0] & 0x0f) !== 1) return socket.end()
    const mask = bytes.subarray(2, 6)
    const text = bytes.subarray(6).map((byte, n) => byte ^ mask[n % 4])
    socket.write(Buffer.concat([Buffer.from([0x81, text.length]), text]))
  })
})
app.keepAliveTimeout = 60_000
app.listen(Number(process.argv[2]), '127.0.0.1', 1024)
