// The gateway as an operator runs it: a settings file, the release binary, one site. And the access tokens it accepts.
import { execFileSync } from 'node:child_process'
import { createHmac, randomBytes } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { alive, freePorts, start } from './children.mjs'
import { doorkeep } from './places.mjs'
import { until } from './report.mjs'
import { send } from './wire.mjs'

const KEY = randomBytes(32).toString('hex')

/** Starts a gateway for one site. `identity` and `site` are TOML lines for their tables; `folder` holds settings and log. */
export async function startGateway ({ name, folder, upstream, identity, site }) {
  const port = await freePorts(2)
  const host = `${name}.localhost`
  const origin = `http://${host}:${port}`
  const login = `http://id.localhost:${port + 1}/login`
  const settings = `
[listen]
http = "127.0.0.1:${port}"

[session]
backend = "directory"
carrier = "split"
cookies = { access = "access_token", refresh = "refresh_token", session = "session_id" }

[session.token]
algorithms = ["HS256"]
key = "file:${join(folder, 'access.key')}"

[login]
url = "${login}"
parameter = "redirect"

[backend.directory]
url = "http://127.0.0.1:${port + 1}" # nobody listens there: what is tested here needs no renewal

[identity]
subject = "userId"
${identity}

[[site]]
host = "${host}"
origin = "${origin}"
upstream = ["http://127.0.0.1:${upstream}"]
${site}
`
  const file = join(folder, 'doorkeep.toml')
  writeFileSync(file, settings)
  writeFileSync(join(folder, 'access.key'), KEY, { mode: 0o600 })
  const child = start(doorkeep, ['run', '--config', file], join(folder, 'doorkeep.log'))
  const headers = [['Host', `${host}:${port}`]]
  await until('the gateway answers', async () => alive(child) && (await send({ port, headers })).status < 500)
  return { port, host: `${host}:${port}`, origin, login }
}

/**
 * Settings of a gateway whose one site, 127.0.0.1, is for everybody. `listen` and `rules` are TOML lines for their tables, `top` such
 * as come before all tables, `more` whole tables.
 */
export const forEverybody = ({ top = '', listen, more = '', origin = 'http://127.0.0.1', upstream, rules = '' }) => `
${top}
[listen]
${listen}
${more}
[session]
backend = "directory"
[session.token]
algorithms = ["HS256"]
key = "no token is checked in this suite, so none is made"
[login]
url = "https://id.example/login"
[backend.directory]
url = "http://127.0.0.1:1"
[[site]]
host = "127.0.0.1"
origin = "${origin}"
upstream = ["http://127.0.0.1:${upstream}"]
[[site.rule]]
path = "/*"
access = "public"
${rules}
`

/** Makes a certificate that signs itself, and the TOML table that names it. */
export function selfSigned (folder, name = 'site', host = '127.0.0.1') {
  const [key, cert] = [join(folder, `${name}.key`), join(folder, `${name}.crt`)]
  const whom = ['-subj', `/CN=${host}`, '-addext', `subjectAltName=${/^[\d.]+$/.test(host) ? 'IP' : 'DNS'}:${host}`]
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2',
    '-keyout', key, '-out', cert, ...whom], { stdio: 'ignore' })
  return `[[tls]]\ncert = "${cert}"\nkey = "${key}"`
}

/** A signed access token as the directory issues them; `claims` adds to it, `undefined` takes away. */
export function mint (userId, claims = {}, { key = KEY, header = { alg: 'HS256', typ: 'JWT' }, life = 600 } = {}) {
  const now = Math.floor(Date.now() / 1000)
  const payload = {
    userId,
    sessionId: `session-${userId}`,
    email: `${userId}@example.org`,
    roleKey: `role-${userId}`,
    iat: now,
    exp: now + life,
    expiry: new Date((now + life) * 1000).toISOString(),
    ...claims
  }
  const text = [header, payload].map(part => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.')
  const signature = header.alg === 'none' ? '' : createHmac('sha256', key).update(text).digest('base64url')
  return `${text}.${signature}`
}

/** Access tokens that say they are `userId`'s and that nobody may believe. */
export function forgeries (userId, honest) {
  const [head, , signature] = honest.split('.')
  const payload = mint(userId).split('.')[1]
  return {
    'signed with another key': mint(userId, {}, { key: 'another key' }),
    'not signed at all': mint(userId, {}, { header: { alg: 'none', typ: 'JWT' } }),
    'an honest signature on another payload': `${head}.${payload}.${signature}`,
    'without an expiry': mint(userId, { exp: undefined, expiry: undefined }),
    'expired, and nothing to renew it with': mint(userId, {}, { life: -60 })
  }
}
