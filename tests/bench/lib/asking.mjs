// Requests over connections that stay open, written as bytes, and the app that answers them: as little beside what is asked as can be.
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import { HOST } from './tokens.mjs'

const PLAIN = ['User-Agent: bench', 'Accept: */*']

/**
 * Asks on `connections` at once, waits for all answers, and so on for so many rounds. `cookie`: what to send, or what gives it
 * anew each time. An answer that is not the app's is an error.
 */
export async function ask (port, path, cookie, rounds, { connections = 16, fields = PLAIN } = {}) {
  const head = sent => [`GET ${path} HTTP/1.1`, `Host: ${HOST}`, ...fields, ...sent ? [`Cookie: ${sent}`] : [], '', ''].join('\r\n')
  const sockets = await Promise.all(Array.from({ length: connections }, async () => {
    const socket = connect(port, '127.0.0.1')
    await once(socket, 'connect')
    return socket.setNoDelay(true).setEncoding('latin1')
  }))
  const answer = async socket => {
    const sent = typeof cookie === 'function' ? await cookie() : cookie
    let said = ''
    socket.write(head(sent))
    while (true) {
      said += (await once(socket, 'data'))[0]
      const end = said.indexOf('\r\n\r\n')
      if (end >= 0 && said.length >= end + 4 + 1024) break
    }
    if (!said.startsWith('HTTP/1.1 200 ') || !/\r\nx-upstream: app\r\n/i.test(said)) throw new Error(said.slice(0, 200))
  }
  for (let round = 0; round < rounds; round++) await Promise.all(sockets.map(answer))
  for (const socket of sockets) socket.destroy()
}

/** The app: 1 KiB to whoever asks. */
export async function startApp (port) {
  const answer = `HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Upstream: app\r\nContent-Length: 1024\r\n\r\n${'x'.repeat(1024)}`
  const app = createServer(socket => {
    let said = ''
    socket.setNoDelay(true).setEncoding('latin1').on('error', () => {}).on('data', piece => {
      said += piece
      if (!said.endsWith('\r\n\r\n')) return
      said = ''
      socket.write(answer)
    })
  })
  app.listen(port, '127.0.0.1')
  await once(app, 'listening')
  return app
}
