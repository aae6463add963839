// Requests as they are written, header line by header line, and a look at what arrives behind the gateway.
import { request } from 'node:http'
import { connect, createServer } from 'node:net'

/** Sends one request on a connection of its own. `headers` is a list of [name, value]: order, case and repeats are kept. */
export function send ({ port, method = 'GET', path = '/', headers = [], body, seconds = 10 }) {
  const has = name => headers.some(([known]) => known.toLowerCase() === name)
  const lines = [...headers]
  if (!has('host')) lines.unshift(['Host', `127.0.0.1:${port}`])
  if (body !== undefined) lines.push(['Content-Length', String(Buffer.byteLength(body))])
  return new Promise((resolve, reject) => {
    const sent = request({ host: '127.0.0.1', port, method, path, headers: lines, agent: false, timeout: seconds * 1000 })
    sent.on('timeout', () => sent.destroy(new Error(`${method} ${path}: no answer within ${seconds} s`)))
    sent.on('error', reject)
    sent.on('response', answer => {
      const chunks = []
      answer.on('data', chunk => chunks.push(chunk))
      answer.on('error', reject)
      answer.on('end', () => resolve({ status: answer.statusCode, headers: answer.headers, text: Buffer.concat(chunks).toString() }))
    })
    sent.end(body)
  })
}

/** Passes bytes on to `port` and keeps what the client side sent, so that a test can say what reached the upstream. */
export async function tap (port) {
  let seen = []
  const server = createServer(near => {
    const far = connect(port, '127.0.0.1')
    near.on('data', bytes => seen.push(bytes))
    near.pipe(far).pipe(near)
    for (const [one, other] of [[near, far], [far, near]]) {
      one.on('error', () => other.destroy())
      one.on('close', () => other.destroy())
    }
  })
  server.unref() // a suite that ends early ends
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))
  return {
    port: server.address().port,
    /** What came since the last look, as text. */
    take: () => { const text = Buffer.concat(seen).toString('latin1'); seen = []; return text },
    close: () => server.close()
  }
}

/** The values of all header lines whose name is `name` once case and punctuation are set aside. */
export function linesNamed (head, name) {
  const folded = text => text.toLowerCase().replace(/[^a-z0-9]/g, '_')
  return head.split('\r\n').map(line => line.split(/:\s*(.*)/s)).filter(([known]) => folded(known) === folded(name)).map(([, value]) => value)
}
