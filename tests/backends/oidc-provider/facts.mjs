// The gateway before oidc-provider, a certified OpenID provider: sessions from a real authorization code flow with PKCE.
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { signal, stopAll } from '../../lib/children.mjs'
import { emptyFolder, output } from '../../lib/places.mjs'
import { check } from '../../lib/report.mjs'
import { prove } from '../../lib/sessions.mjs'
import { send } from '../../lib/wire.mjs'
import { startProvider } from './start.mjs'

const LIFE = 5 // seconds of an access token
const folder = emptyFolder(output, 'backends', 'oidc-provider')

async function provider () {
  const redirect = 'http://127.0.0.1:1/callback' // nobody has to go there: the code is in its address
  const { port, client, child } = await startProvider({ modules: process.env.MODULES, life: LIFE, redirect, log: join(folder, 'op.log') })

  const form = async (path, fields) => {
    const headers = [
      ['Content-Type', 'application/x-www-form-urlencoded'],
      ['Authorization', `Basic ${Buffer.from(`${client.id}:${client.secret}`).toString('base64')}`]
    ]
    const answer = await send({ port, method: 'POST', path, headers, body: String(new URLSearchParams(fields)) })
    return { status: answer.status, body: answer.text ? JSON.parse(answer.text) : {} }
  }

  /** The code flow as a browser goes through it, with PKCE (RFC 7636). */
  async function signIn (user) {
    const verifier = randomBytes(32).toString('base64url')
    const cookies = new Map()
    let path = `/auth?${new URLSearchParams({
      client_id: client.id,
      response_type: 'code',
      scope: 'openid',
      redirect_uri: redirect,
      login_hint: user,
      state: 's',
      code_challenge: createHash('sha256').update(verifier).digest('base64url'),
      code_challenge_method: 'S256'
    })}`
    for (let steps = 0; steps < 6; steps++) {
      const answer = await send({ port, path, headers: [['Cookie', [...cookies].map(pair => pair.join('=')).join('; ')]] })
      assert.equal(answer.status, 303, answer.text)
      for (const line of answer.headers['set-cookie'] ?? []) {
        const [, name, value] = line.match(/^([^=]+)=([^;]*)/)
        cookies.set(name, value)
      }
      const to = new URL(answer.headers.location, `http://127.0.0.1:${port}`)
      if (to.href.startsWith(redirect)) {
        const { status, body } = await form('/token', {
          grant_type: 'authorization_code', code: to.searchParams.get('code'), redirect_uri: redirect, code_verifier: verifier
        })
        assert.equal(status, 200, body.error_description)
        return body
      }
      path = to.pathname + to.search
    }
    throw new Error('the sign-in does not come to its end')
  }

  return {
    port,
    life: LIFE,
    token: `algorithms = ["ES256"]\njwks = "http://127.0.0.1:${port}/jwks"\nissuer = "http://127.0.0.1:${port}"\naudience = ["https://api.example"]`,
    backend: at => `token_url = "${at}/token"
revocation_url = "${at}/token/revocation"
client_id = "${client.id}"
client_secret = "${client.secret}"
rotates = true`,
    signIn,
    refresh: token => form('/token', { grant_type: 'refresh_token', refresh_token: token }),
    end: token => form('/token/revocation', { token, token_type_hint: 'refresh_token' }),
    pause: () => signal(child, 'SIGSTOP'),
    resume: () => signal(child, 'SIGCONT')
  }
}

try {
  await prove('oidc-provider', folder, await provider())
} catch (fault) {
  await check('the suite runs to its end', () => { throw fault })
} finally {
  await stopAll()
}
process.exit()
