// The gateways of a suite: the one place that knows how many there are and where. Browsers of the suite spread over them.
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { mkdirSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { alive, freePorts, start, stop } from './children.mjs'
import { doorkeep } from './places.mjs'
import { until } from './report.mjs'
import { send } from './wire.mjs'

const HOST = 'app.localhost'

/**
 * Starts `count` gateways before one upstream; several share their renewals through a Redis of their own. `settings` is TOML:
 * everything but listeners, secret, login and site. `renew` is TOML for `[session.renew]`.
 */
export async function startFleet ({ name, folder, upstream, settings, renew = '', count = 1 }) {
  const secret = randomBytes(33).toString('hex')
  const first = await freePorts(count)
  const origin = `http://${HOST}:${first}`
  const share = count > 1 ? `[share]\nurl = "redis://127.0.0.1:${await startRedis(name, folder)}"` : ''
  const gateways = Array.from({ length: count }, (_, n) => ({ port: first + n, file: join(folder, `${name}-${n}.toml`), log: join(folder, `${name}-${n}.log`) }))
  for (const { port, file } of gateways) {
    const state = join(folder, `${name}-state-${port}`)
    mkdirSync(state)
    writeFileSync(file, `
secret = "${secret}"
state_dir = "${state}"
[listen]
http = "127.0.0.1:${port}"
[session.renew]
${renew}
[login]
url = "http://id.localhost/login"
[[site]]
host = "${HOST}"
origin = "${origin}"
upstream = ["http://127.0.0.1:${upstream}"]
${settings}
${share}
`)
  }
  const launch = async gateway => {
    gateway.child = start(doorkeep, ['run', '--config', gateway.file], gateway.log)
    await until(`${name}: the gateway answers`, async () => alive(gateway.child) && (await request(gateway, new Jar())).status < 500)
  }
  const request = ({ port }, jar, { path = '/page', method = 'GET', headers = [], seconds = 20 } = {}) => {
    const lines = head(first, jar, headers)
    return send({ port, path, method, headers: lines, body: method === 'GET' ? undefined : '', seconds })
  }
  let turn = 0
  const pick = () => gateways[turn++ % gateways.length]
  await Promise.all(gateways.map(launch))
  return {
    origin,
    /** Each gateway's base URL. */
    urls: gateways.map(({ port }) => `http://127.0.0.1:${port}`),
    logs: gateways.map(({ log }) => log),
    /** A page view at the next gateway. */
    ask: (jar, how) => request(pick(), jar, how),
    /** Sends a page view and hangs up, without reading, once `when` comes true. */
    async hangUp (jar, path, when = async () => {}) {
      const socket = connect(pick().port, '127.0.0.1')
      socket.on('error', () => {})
      socket.pause()
      const lines = head(first, jar).map(([name, value]) => `${name}: ${value}\r\n`).join('')
      await new Promise(resolve => socket.write(`GET ${path} HTTP/1.1\r\n${lines}\r\n`, resolve))
      await when()
      socket.destroy()
    },
    /** Stops all in order, and starts them again with the same settings. */
    async restart () {
      for (const gateway of gateways) {
        await stop(gateway.child)
        assert.equal(gateway.child.exitCode, 0, `it ended with ${gateway.child.exitCode ?? gateway.child.signalCode}`)
      }
      await Promise.all(gateways.map(launch))
    },
    stop: () => Promise.all(gateways.map(({ child }) => stop(child)))
  }
}

/** An empty Redis; its port. It ends with the suite. */
async function startRedis (name, folder) {
  const port = await freePorts()
  const server = start('redis-server', ['--port', port, '--bind', '127.0.0.1', '--save', '', '--dir', folder].map(String), join(folder, `${name}-redis.log`))
  const answers = () => new Promise(resolve => {
    const socket = connect(port, '127.0.0.1', () => { socket.destroy(); resolve(true) })
    socket.on('error', () => resolve(false))
  })
  await until(`${name}: Redis answers`, async () => alive(server) && await answers())
  return port
}

function head (port, jar, headers = []) {
  const cookie = jar.line()
  return [
    ['Host', `${HOST}:${port}`], ['Accept', 'text/html'], ['Sec-Fetch-Mode', 'navigate'], ['Sec-Fetch-Site', 'same-origin'],
    ...headers, ...(cookie ? [['Cookie', cookie]] : [])
  ]
}

/** A browser's cookies. */
export class Jar extends Map {
  line () { return [...this].map(([name, value]) => `${name}=${value}`).join('; ') }

  copy () { return new Jar(this) }

  /** Takes an answer's cookies, as a browser does. */
  take (answer) {
    for (const line of answer.headers['set-cookie'] ?? []) {
      const [, name, value, rest] = line.match(/^([^=]+)=([^;]*)(.*)$/)
      if (/max-age=0(;|$)/i.test(rest)) this.delete(name)
      else this.set(name, value)
    }
    return this
  }
}
