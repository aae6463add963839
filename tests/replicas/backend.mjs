// A session backend of the `directory` kind that rotates refresh tokens and ends a session when a spent one comes back.
// It listens on one port for each replica, so that it can be told whose renewal is under way, and stops where a scenario wants.
import { createHmac, generateKeyPairSync, randomBytes, randomUUID, sign } from 'node:crypto'
import { createServer } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'

export const KEY = randomBytes(32).toString('hex')

/**
 * `life`: seconds of an access token. `grace`: milliseconds in which a spent token brings the same pair again.
 * `publishes`: tokens are signed with keys that it publishes, instead of the secret that all know.
 */
export class Backend {
  constructor ({ life = 300, grace = 0, publishes = false } = {}) {
    Object.assign(this, { life, grace, sessions: new Map(), servers: [], hooks: [], delay: () => 0 })
    Object.assign(this, { presented: 0, renewals: 0, reuses: 0, revoked: 0, fetches: 0, firsts: new Map(), again: [] })
    Object.assign(this, { keys: [], behind: new Set() })
    if (publishes) this.rotateKeys()
  }

  /** Signs with a new key from now on. To the replicas in `behind` the keys of before are published. */
  rotateKeys (...behind) {
    const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
    this.keys.unshift({ kid: randomUUID(), publicKey, privateKey })
    this.behind = new Set(behind)
  }

  #published (replica) {
    const keys = this.keys.slice(this.behind.has(replica) ? 1 : 0).slice(0, 2)
    return { keys: keys.map(({ kid, publicKey }) => ({ ...publicKey.export({ format: 'jwk' }), kid, alg: 'ES256', use: 'sig' })) }
  }

  #signed (claims) {
    const [key] = this.keys
    const head = key ? { alg: 'ES256', typ: 'JWT', kid: key.kid } : { alg: 'HS256', typ: 'JWT' }
    const text = [head, claims].map(part => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.')
    const signature = key
      ? sign('sha256', Buffer.from(text), { key: key.privateKey, dsaEncoding: 'ieee-p1363' })
      : createHmac('sha256', KEY).update(text).digest()
    return `${text}.${signature.toString('base64url')}`
  }

  /** The port for the replica with this number. */
  async listen (replica) {
    const server = createServer((request, response) => this.#answer(request, response, replica).catch(() => response.destroy()))
    server.keepAliveTimeout = 60_000
    this.servers.push(server)
    await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))
    return server.address().port
  }

  close () { for (const server of this.servers) { server.close(); server.closeAllConnections() } }

  /** `act` is called once at `place`: 'heard' before a token is spent, 'rotated' after. What it returns may change the answer. */
  once (place, act) { this.hooks.push({ place, act, left: 1 }) }

  /** As `once`, for every renewal. */
  always (place, act) { this.hooks.push({ place, act, left: Infinity }) }

  quiet () { this.hooks = [] }

  signIn (user, { endsIn = this.life } = {}) {
    const session = { id: randomBytes(12).toString('hex'), user, status: 'active', refresh: undefined, spent: new Map() }
    this.sessions.set(session.id, session)
    return { session, pair: this.#issue(session, endsIn) }
  }

  #issue (session, life = this.life) {
    const now = Math.floor(Date.now() / 1000)
    session.refresh = randomUUID()
    const iat = Math.min(now, now + life - this.life)
    const claims = { userId: session.user, sessionId: session.id, iat, exp: now + life, jti: randomUUID() }
    return {
      id: session.id,
      token: this.#signed(claims),
      expiry: new Date((now + life) * 1000).toISOString(),
      refresh: { token: session.refresh, expiry: new Date((now + 3600) * 1000).toISOString() }
    }
  }

  async #answer (request, response, replica) {
    const chunks = []
    for await (const chunk of request) chunks.push(chunk)
    const [, what, id] = /^\/directory\/(?:sessions\/([^/]+)\/renew|api\/users\/signOut\/([^/]+))$/.exec(request.url) ?? []
    const say = (status, body) => {
      if (response.destroyed) return
      response.writeHead(status, { 'content-type': 'application/json' })
      response.end(typeof body === 'string' ? body : JSON.stringify(body))
    }
    if (request.url === '/jwks') { this.fetches++; return say(200, this.#published(replica)) }
    if (id !== undefined) {
      const session = this.sessions.get(id)
      if (session) { session.status = 'signed out'; this.revoked++ }
      return say(200, { isSuccess: true, data: { id } })
    }
    this.presented++
    const token = JSON.parse(Buffer.concat(chunks)).refresh.token
    const { at } = this.firsts.get(token) ?? {}
    if (at === undefined) this.firsts.set(token, { at: Date.now(), replica })
    else this.again.push({ after: Date.now() - at, first: this.firsts.get(token).replica, then: replica })
    const context = { replica, session: this.sessions.get(what), say, cut: () => response.destroy() }
    const first = await this.#at('heard', context)
    if (first) return first === 'cut' ? response.destroy() : say(first.status, first.body)
    await sleep(this.delay())
    const [status, body] = this.#renew(context.session, token)
    const then = await this.#at('rotated', context)
    if (then) return then === 'cut' ? response.destroy() : say(then.status, then.body)
    say(status, body)
  }

  async #at (place, context) {
    const hook = this.hooks.find(hook => hook.place === place && hook.left > 0)
    if (!hook) return undefined
    hook.left--
    return hook.act(context)
  }

  #renew (session, token) {
    const refused = [401, { isSuccess: false, code: 'SESSION_EXPIRED' }]
    if (!session || session.status !== 'active') return refused
    if (session.refresh === token) {
      const pair = this.#issue(session)
      session.spent.set(token, { at: Date.now(), pair })
      this.renewals++
      return [200, { isSuccess: true, data: pair }]
    }
    const spent = session.spent.get(token)
    if (!spent) return refused
    if (Date.now() - spent.at < this.grace) return [200, { isSuccess: true, data: spent.pair }]
    this.reuses++
    session.status = 'ended: a token came twice'
    return refused
  }
}
