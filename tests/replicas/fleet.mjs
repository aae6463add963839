// Replicas of the gateway, each a process of its own with its own wires to Redis and to the session backend, and browsers.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer, request } from 'node:http'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { start } from '../lib/children.mjs'
import { doorkeep } from '../lib/places.mjs'
import { until } from '../lib/report.mjs'
import { Backend, KEY } from './backend.mjs'
import { RedisWire, Wire } from './proxy.mjs'
import { single, stopped } from './redis.mjs'

const HOST = 'app.localhost'

/** The app: who came, after as long as `delay` says. */
class App {
  constructor () {
    this.delay = () => 0
    this.server = createServer(async (request, response) => {
      request.resume()
      await sleep(this.delay())
      response.setHeader('content-type', 'text/plain')
      response.end(request.headers['x-auth-user'] ?? 'nobody')
    })
  }

  listen () { return new Promise(resolve => this.server.listen(0, '127.0.0.1', () => resolve(this.server.address().port))) }
  close () { this.server.close(); this.server.closeAllConnections() }
}

class Gateway {
  constructor (fleet, number, file, clock) { Object.assign(this, { fleet, number, file, clock, up: false, paused: false, starts: 0 }) }

  async start () {
    this.log = join(this.fleet.folder, `replica-${this.number}.${this.starts++}.log`)
    const clock = this.clock && { LD_PRELOAD: process.env.FAKETIME_LIBRARY, FAKETIME: this.clock, DONT_FAKE_MONOTONIC: '1' }
    this.child = start(doorkeep, ['run', '--config', this.file], this.log, clock)
    const serving = await until('the replica serves', () => this.lines().find(line => line.http !== undefined), 20, 20)
    this.port = Number(serving.http.split(':')[1])
    this.admin = Number(serving.admin.split(':')[1])
    this.up = true
  }

  lines () {
    return readFileSync(this.log, 'utf8').split('\n').flatMap(line => { try { const all = JSON.parse(line); return [{ ...all, ...all.fields }] } catch { return [] } })
  }

  async metric (name) {
    const { text } = await plain(this.admin, '/metrics')
    return Number(new RegExp(`^${name}(?:_total)? (\\S+)$`, 'm').exec(text)?.[1])
  }

  async kill () {
    this.up = false
    const gone = new Promise(resolve => this.child.once('exit', resolve))
    this.child.kill('SIGKILL')
    await gone
  }

  /** Stops it where it is, until it is told to go on where nobody says for how long. */
  async pause (milliseconds) {
    this.paused = this.wasPaused = true
    this.child.kill('SIGSTOP')
    if (milliseconds !== undefined) setTimeout(() => this.resume(), milliseconds)
    await stopped(this.child.pid)
  }

  resume () { this.child.kill('SIGCONT'); this.paused = false }
}

const plain = (port, path) => new Promise((resolve, reject) => {
  request({ host: '127.0.0.1', port, path, agent: false, timeout: 3000 }, answer => {
    let text = ''
    answer.setEncoding('utf8').on('data', part => { text += part }).on('end', () => resolve({ status: answer.statusCode, text }))
  }).on('error', reject).end()
})

/** `renew`, `share`, `token`, `tables`: further lines of settings. `clocks`: how far each replica's clock is off. */
export class Fleet {
  constructor (folder, plan = {}) {
    Object.assign(this, { folder, plan, gateways: [], wires: [], backendWires: [], browsers: [], timeout: plan.timeout ?? 5 })
    Object.assign(this, { requests: 0, cut: 0, late: 0, slowest: 0, statuses: {} })
  }

  static async start (folder, plan = {}) {
    const fleet = new Fleet(folder, plan)
    mkdirSync(folder, { recursive: true })
    fleet.backend = new Backend(plan.backend)
    fleet.app = new App()
    const app = await fleet.app.listen()
    fleet.redis = plan.redis ?? await single(folder)
    for (let n = 0; n < (plan.replicas ?? 3); n++) {
      let url = plan.url
      if (!url) {
        const wire = new RedisWire(() => fleet.redis.port)
        fleet.wires.push(wire)
        url = `"redis://127.0.0.1:${await wire.listen()}"`
      }
      const backend = await fleet.backend.listen(n)
      const wire = new Wire(() => backend)
      fleet.backendWires.push(wire)
      const file = join(folder, `replica-${n}.toml`)
      writeFileSync(file, settings({ ...plan, url, app, port: await wire.listen(), timeout: fleet.timeout }))
      fleet.gateways.push(new Gateway(fleet, n, file, plan.clocks?.[n]))
    }
    await Promise.all(fleet.gateways.map(gateway => gateway.start()))
    await fleet.shareUp()
    // A store that is new is trusted after a moment: owners of claims could be on their way back.
    await sleep(2200)
    return fleet
  }

  async shareUp (seconds = 20) {
    for (const gateway of this.gateways.filter(gateway => gateway.up && !gateway.paused)) {
      await until('the share is up', async () => await gateway.metric('doorkeep_share_up') === 1, seconds, 50)
    }
  }

  async stop () {
    for (const wire of [...this.wires, ...this.backendWires]) wire.close()
    await Promise.all(this.gateways.map(gateway => { gateway.child.kill('SIGCONT'); gateway.child.kill('SIGKILL'); return undefined }))
    for (const server of this.redis.servers ?? [this.redis]) { server.child.kill('SIGCONT'); server.child.kill('SIGKILL') }
    for (const watcher of this.redis.watchers ?? []) watcher.child.kill('SIGKILL')
    this.backend.close()
    this.app.close()
  }

  /** A browser that is signed in; its access token ends in `endsIn` seconds, less than nothing for one that is over. */
  browser (endsIn = -5, user = 'ravi') {
    const { session, pair } = this.backend.signIn(user, { endsIn })
    const browser = new Browser(this, session, pair)
    this.browsers.push(browser)
    return browser
  }

  /** `act` at a step of the next flight, wherever that is flown. It is given the replica's number. */
  once (step, act) {
    const [place, when] = STEPS[step]
    if (place === 'backend') return this.backend.once(when, context => act(context.replica))
    let done = false
    for (const [n, wire] of this.wires.entries()) {
      wire.once(place, when, async () => { if (!done) { done = true; await act(n) } })
    }
  }

  quiet () { for (const wire of this.wires) wire.hooks = []; this.backend.quiet() }

  /** Log lines that somebody should look at. */
  warnings () {
    const counts = new Map()
    for (const gateway of this.gateways) {
      for (const line of gateway.lines()) {
        if (line.level === 'WARN' || line.level === 'ERROR') counts.set(line.message, (counts.get(line.message) ?? 0) + 1)
      }
    }
    return counts
  }

  /** Every session that was not signed out goes on, at every replica. What does not is lost. */
  async lost (seconds = 25) {
    this.quiet()
    const ask = (browser, gateway) => browser.copy().insist(gateway.number, seconds).catch(fault => { browser.fate.fault ??= fault.message })
    for (const gateway of this.gateways.filter(gateway => gateway.up)) await Promise.all(this.browsers.map(browser => ask(browser, gateway)))
    return this.browsers.filter(browser => browser.fate.refused || browser.fate.fault || browser.session.status.startsWith('ended')).length
  }

  facts () {
    const { requests, cut, late, slowest, statuses, backend } = this
    const other = Object.entries(statuses).filter(([status]) => status !== '200').map(([status, n]) => `${n} of ${status}`)
    const again = backend.again.map(({ after, first, then }) => `presented again ${after} ms after the first time${first === then ? '' : ', by another replica'}`)
    return { requests, cut, late, slowest, other, again, renewals: backend.renewals, presented: backend.presented, reuses: backend.reuses }
  }
}

/** Where a flight can be stopped. */
export const STEPS = {
  'before the claim': ['claim', 'before'],
  'after the claim': ['claim', 'after'],
  'after sent': ['sent', 'after'],
  'as the backend hears': ['backend', 'heard'],
  'as the backend answers': ['backend', 'rotated'],
  'before the result is stored': ['store', 'before'],
  'after the result is stored': ['store', 'after']
}

let browsers = 0

/** A cookie jar that tabs share. It takes cookies as soon as an answer's head is there. */
export class Browser {
  constructor (fleet, session, pair) {
    Object.assign(this, { fleet, session, number: browsers++, jar: new Map(), fate: {}, signedOut: false })
    this.jar.set('access_token', pair.token).set('refresh_token', pair.refresh.token).set('session_id', pair.id)
  }

  /** Another browser window with the cookies of this one, as they are now. */
  copy () {
    const other = Object.assign(Object.create(Browser.prototype), this)
    other.jar = new Map(this.jar)
    return other
  }

  take (lines) {
    for (const line of lines) {
      const [, name, value] = /^([^=]+)=([^;]*)/.exec(line)
      if (/max-age=0(;|$)/i.test(line)) this.jar.delete(name)
      else this.jar.set(name, value)
    }
  }

  /**
   * One request. `leave`: after how many milliseconds the tab is closed. `keep: false`: the answer's cookies are not taken.
   * `mode`: what it is for, as browsers say it.
   */
  ask (n, { path = '/data', method = 'GET', leave, keep = true, port, seconds = 30, mode = 'cors' } = {}) {
    const gateway = this.fleet.gateways[n % this.fleet.gateways.length]
    const since = performance.now()
    const fleet = this.fleet
    fleet.requests++
    return new Promise(resolve => {
      const cookie = [...this.jar].map(([name, value]) => `${name}=${value}`).join('; ')
      const headers = { Host: HOST, Accept: '*/*', 'Sec-Fetch-Mode': mode, 'Sec-Fetch-Site': 'same-origin', Cookie: cookie }
      const sent = request({ host: '127.0.0.1', port: port ?? gateway.port, method, path, headers, agent: false, timeout: seconds * 1000 })
      const timer = leave === undefined ? undefined : setTimeout(() => sent.destroy(), leave)
      const end = answer => { clearTimeout(timer); resolve({ ...answer, milliseconds: performance.now() - since }) }
      const broken = () => { fleet.cut++; end({ status: 0 }) }
      sent.on('timeout', () => { if (!gateway.wasPaused && gateway.up) fleet.late++; sent.destroy() })
      sent.on('error', broken)
      sent.on('response', answer => {
        const took = performance.now() - since
        const { statusCode: status } = answer
        if (keep) this.take(answer.headers['set-cookie'] ?? [])
        fleet.statuses[status] = (fleet.statuses[status] ?? 0) + 1
        if (!gateway.wasPaused) {
          fleet.slowest = Math.max(fleet.slowest, took)
          if (took > fleet.timeout * 1000 + 2500) fleet.late++
        }
        if ([302, 401, 403].includes(status) && !this.signedOut) this.fate.refused ??= status
        let text = ''
        answer.setEncoding('utf8').on('data', part => { text += part }).on('error', broken)
        answer.on('end', () => end({ status, text, cookies: answer.headers['set-cookie'] ?? [], retry: answer.headers['retry-after'] }))
        answer.on('close', () => { if (!answer.complete) broken() })
      })
      sent.end()
    })
  }

  /** Asks until there is an answer other than 503, replica by replica, as somebody who presses `reload` does. */
  async insist (n, seconds = 25, options = {}) {
    const end = performance.now() + seconds * 1000
    for (let at = n; performance.now() < end; at++) {
      const gateway = this.fleet.gateways[at % this.fleet.gateways.length]
      if (!gateway.up || gateway.paused) { await sleep(20); continue }
      const answer = await this.ask(at, { seconds: this.fleet.timeout + 4, ...options })
      if (answer.status !== 503 && answer.status !== 0) return answer
      await sleep(200)
    }
    throw new Error(`no answer but 503 for ${seconds} s`)
  }
}

function settings ({ url, app, port, timeout, backend, renew = '', share = '', token = 'leeway = "0s"', tables = '', level = 'info' }) {
  const keys = backend?.publishes
    ? `algorithms = ["ES256"]\njwks = "http://127.0.0.1:${port}/jwks"`
    : `algorithms = ["HS256"]\nkey = "${KEY}"`
  return `
secret = "own-secret-of-these-tests-0123456789abcdef"
[listen]
http = "127.0.0.1:0"
admin = "127.0.0.1:0"
[log]
format = "json"
level = "${level}"
[share]
url = ${url}
${share}
[session]
backend = "directory"
[session.cookies]
secure = false
[session.token]
${keys}
${token}
[session.renew]
timeout = "${timeout}s"
${renew}
[login]
url = "http://id.localhost/login"
[backend.directory]
url = "http://127.0.0.1:${port}"
[identity]
subject = "userId"
[identity.headers]
"X-Auth-User" = "userId"
[[site]]
host = "${HOST}"
origin = "http://${HOST}"
upstream = ["http://127.0.0.1:${app}"]
${tables}
`
}
