// The OpenID provider at which peers with sessions of their own sign in: a certified one, as in the tests of backends.
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { startProvider as startOp } from '../../backends/oidc-provider/start.mjs'
import { Jar } from '../../lib/fleet.mjs'
import { send } from '../../lib/wire.mjs'
import { HOST } from './tokens.mjs'

const DAY = 86400

/** A provider, and where it sends users back to: whoever asks for them at a peer takes them there. */
export async function startProvider (folder) {
  const redirect = `http://${HOST}/oauth2/callback`
  const { port, client } = await startOp({ modules: process.env.BENCH_OIDC_PROVIDER, life: DAY, redirect, log: join(folder, 'provider.log') })
  return { issuer: `http://127.0.0.1:${port}`, port, client, redirect }
}

/** Signs `user` in as a browser does whom the peer at `port` sends to the provider; the cookies that it has then. */
export async function signIn (provider, port, user, path) {
  const jars = new Map([[port, new Jar()], [provider.port, new Jar()]])
  let at = port
  for (let steps = 0; steps < 10; steps++) {
    const jar = jars.get(at)
    const answer = await send({ port: at, path, headers: [...at === port ? [['Host', HOST]] : [], ['Cookie', jar.line()]] })
    jar.take(answer)
    if (at === port && new URL(path, provider.redirect).pathname === '/oauth2/callback') {
      assert.equal(answer.status, 302, `the sign-in ends with ${answer.status}: ${answer.text.slice(0, 200)}`)
      return jar.line()
    }
    assert.ok([302, 303].includes(answer.status), `a sign-in meets ${answer.status} at ${path}: ${answer.text.slice(0, 200)}`)
    const to = new URL(answer.headers.location, at === port ? provider.redirect : provider.issuer)
    at = to.origin === provider.issuer ? provider.port : port
    if (to.searchParams.has('client_id')) to.searchParams.set('login_hint', user)
    path = to.pathname + to.search
  }
  throw new Error('a sign-in does not come to its end')
}
