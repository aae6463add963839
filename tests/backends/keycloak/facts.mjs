// The gateway before Keycloak, with "Revoke Refresh Token" on and no reuse allowed.
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { alive, freePorts, signal, start, stopAll } from '../../lib/children.mjs'
import { emptyFolder, output } from '../../lib/places.mjs'
import { check, until } from '../../lib/report.mjs'
import { prove } from '../../lib/sessions.mjs'
import { send } from '../../lib/wire.mjs'
import { realm } from './realm.mjs'

const LIFE = 5 // seconds of an access token
const REALM = 'gate'
const home = process.env.KEYCLOAK
const folder = emptyFolder(output, 'backends', 'keycloak')

async function startKeycloak () {
  const port = await freePorts(2)
  const client = { id: 'gateway', secret: randomBytes(24).toString('base64url') }
  const people = { alice: randomBytes(12).toString('hex'), bob: randomBytes(12).toString('hex') }
  const imports = join(home, 'data', 'import')
  rmSync(imports, { recursive: true, force: true })
  mkdirSync(imports, { recursive: true })
  writeFileSync(join(imports, `${REALM}-realm.json`), JSON.stringify(realm({ name: REALM, life: LIFE, client, people })))
  const child = start(join(home, 'bin', 'kc.sh'), [
    // Kept in memory: each run begins with the realm above.
    'start-dev', '--db=dev-mem', '--import-realm', `--hostname=http://127.0.0.1:${port}`, '--http-host=127.0.0.1',
    `--http-port=${port}`, `--http-management-port=${port + 1}`
  ], join(folder, 'keycloak.log'), { JAVA_OPTS_KC_HEAP: '-Xms64m -Xmx512m' }, { group: true })
  const base = `/realms/${REALM}`
  await until('Keycloak answers', async () => alive(child) && (await send({ port, path: base })).status === 200, 240, 500)

  const at = `${base}/protocol/openid-connect`
  const form = async (path, fields) => {
    const headers = [
      ['Content-Type', 'application/x-www-form-urlencoded'],
      ['Authorization', `Basic ${Buffer.from(`${client.id}:${client.secret}`).toString('base64')}`]
    ]
    const answer = await send({ port, method: 'POST', path: at + path, headers, body: String(new URLSearchParams(fields)) })
    return { status: answer.status, body: answer.text ? JSON.parse(answer.text) : {} }
  }
  return {
    port,
    life: LIFE,
    token: `algorithms = ["RS256"]\njwks = "http://127.0.0.1:${port}${at}/certs"\nissuer = "http://127.0.0.1:${port}${base}"\naudience = ["https://api.example"]`,
    backend: to => `token_url = "${to}${at}/token"
revocation_url = "${to}${at}/revoke"
client_id = "${client.id}"
client_secret = "${client.secret}"
rotates = true`,
    introspection: `${at}/token/introspect`,
    async signIn (user) {
      const { status, body } = await form('/token', { grant_type: 'password', username: user, password: people[user], scope: 'openid' })
      assert.equal(status, 200, body.error_description)
      return body
    },
    refresh: token => form('/token', { grant_type: 'refresh_token', refresh_token: token }),
    end: token => form('/revoke', { token, token_type_hint: 'refresh_token' }),
    pause: () => signal(child, 'SIGSTOP'),
    resume: () => signal(child, 'SIGCONT')
  }
}

try {
  await prove('keycloak', folder, await startKeycloak())
} catch (fault) {
  await check('the suite runs to its end', () => { throw fault })
} finally {
  await stopAll()
}
process.exit()
