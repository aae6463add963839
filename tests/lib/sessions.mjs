// What has to hold before any real OAuth 2 server that rotates refresh tokens and detects their reuse: nobody is signed out
// by anything but that server's own refusal, and no refresh token is presented twice.
import assert from 'node:assert/strict'
import { createServer, request } from 'node:http'
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { Jar, startFleet } from './fleet.mjs'
import { check, until } from './report.mjs'

const LEEWAY = 1 // seconds
const REPLICAS = 3 // gateways that share renewals, before each of which any request may come
const WAIT = 3 // seconds that a browser waits for a renewal

const claims = token => JSON.parse(Buffer.from(token.split('.')[1], 'base64url'))

/** What stands behind the gateways: says whom it was told of, and keeps which paths were asked for. */
async function startUpstream () {
  const asked = []
  const server = createServer((request, response) => {
    asked.push(request.url)
    response.setHeader('content-type', 'application/json')
    response.end(JSON.stringify({ user: request.headers['x-auth-user'], cookie: request.headers.cookie ?? '' }))
  })
  server.unref()
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))
  return { port: server.address().port, asked }
}

/**
 * Stands between the gateways and the server, and counts how often each refresh token is presented. A call that the server
 * answers with 401 is not counted: it looked at the client and at nothing else.
 */
async function startCounter (port) {
  const counts = new Map()
  const count = (token, by) => token && counts.set(token, (counts.get(token) ?? 0) + by)
  const server = createServer((near, answer) => {
    const chunks = []
    near.on('data', chunk => chunks.push(chunk))
    near.on('error', () => {})
    near.on('end', () => {
      const body = Buffer.concat(chunks)
      const form = new URLSearchParams(body.toString())
      const token = form.get('grant_type') === 'refresh_token' ? form.get('refresh_token') : undefined
      count(token, 1)
      const far = request({ host: '127.0.0.1', port, method: near.method, path: near.url, headers: near.headers, agent: false })
      far.on('error', () => near.socket.destroy())
      far.on('response', said => {
        if (said.statusCode === 401) count(token, -1)
        answer.writeHead(said.statusCode, said.headers)
        said.pipe(answer)
        said.on('error', () => near.socket.destroy())
      })
      far.end(body)
    })
  })
  server.unref()
  const accept = (at = 0) => new Promise(resolve => server.listen(at, '127.0.0.1', resolve))
  await accept()
  const at = server.address().port
  return {
    port: at,
    counts,
    /** How often a refresh token was presented. */
    of: token => counts.get(token) ?? 0,
    /** Connections are refused from now on. */
    refuse () { server.close(); server.closeAllConnections() },
    accept: () => accept(at)
  }
}

/**
 * Proves it. `server` has `port`; `life`, an access token's in seconds; `token`, `backend`: TOML for `[session.token]` and
 * `[backend.oauth2]`, given the address to use; `introspection`: its endpoint's path, where it tells about such tokens;
 * `signIn(user)` and `refresh(token)` at the server itself; `pause`, `resume`.
 */
export async function prove (name, folder, server) {
  const upstream = await startUpstream()
  const counter = await startCounter(server.port)
  const at = `http://127.0.0.1:${counter.port}`
  const settings = (backend = server.backend(at), token = server.token) => `
[session]
backend = "oauth2"
[session.cookies]
secure = false
[session.token]
leeway = "${LEEWAY}s"
${token}
[backend.oauth2]
${backend}
[identity.headers]
"X-Auth-User" = "sub"
`
  const renew = `timeout = "${WAIT}s"\ngive_up = "25s"`
  const fleet = await startFleet({ name, folder, upstream: upstream.port, settings: settings(), renew, count: REPLICAS })

  const session = async (user = 'alice') => {
    const pair = await server.signIn(user)
    return new Jar([['access_token', pair.access_token], ['refresh_token', pair.refresh_token]])
  }
  const over = () => sleep((server.life + LEEWAY + 0.7) * 1000)
  const expired = async user => { const jar = await session(user); await over(); return jar }
  const fine = (answer, what = 'an answer') => { assert.equal(answer.status, 200, `${what}: ${answer.status} ${answer.text.slice(0, 200)}`); return answer }
  /** The jar after a request that has to bring a new pair; the old refresh token was presented once. */
  const renewed = async (old, what) => {
    const jar = old.copy().take(fine(await fleet.ask(old), what))
    assert.notEqual(jar.get('refresh_token'), old.get('refresh_token'), 'there is a new pair')
    assert.equal(counter.of(old.get('refresh_token')), 1, 'one presentation')
    return jar
  }
  const refused = async jar => {
    const { status, body } = await server.refresh(jar.get('refresh_token'))
    assert.deepEqual([status, body.error], [400, 'invalid_grant'])
  }

  await check('the server itself ends a session when a refresh token comes twice', async () => {
    const first = await server.signIn('alice')
    const second = await server.refresh(first.refresh_token)
    assert.equal(second.status, 200)
    assert.equal((await server.refresh(first.refresh_token)).body.error, 'invalid_grant')
    const after = await server.refresh(second.body.refresh_token)
    assert.deepEqual([after.status, after.body.error], [400, 'invalid_grant'], 'the newest one is over, too')
  })
  await check('behind the gateway, too: whoever presents an old token elsewhere ends the session', async () => {
    const old = await expired()
    const jar = await renewed(old)
    await refused(old)
    await over()
    const answer = await fleet.ask(jar)
    assert.equal(answer.status, 302, 'the login page')
    assert.equal(jar.take(answer).has('refresh_token'), false)
  }, 60)
  await check('a live session is admitted, the app is told who it is and sees no token', async () => {
    const jar = await session()
    const answer = fine(await fleet.ask(jar.set('theme', 'dark')))
    const told = JSON.parse(answer.text)
    assert.equal(told.user, claims(jar.get('access_token')).sub)
    assert.equal(told.cookie, 'theme=dark')
    assert.equal(counter.of(jar.get('refresh_token')), 0)
  })

  // These need time and not each other.
  await Promise.all([
    check('ten expiries in a row, several tabs each time: none lost', async () => {
      let jar = await session()
      for (let turn = 1; turn <= 10; turn++) {
        await over()
        const old = jar.copy()
        const answers = await Promise.all(Array.from({ length: 5 }, () => fleet.ask(old)))
        answers.forEach(answer => fine(answer, `turn ${turn}`))
        for (const answer of answers.reverse()) jar = jar.take(answer)
        assert.notEqual(jar.get('refresh_token'), old.get('refresh_token'))
        assert.equal(counter.of(old.get('refresh_token')), 1, `turn ${turn}: one presentation`)
      }
    }, 60 + 15 * server.life),
    check('200 parallel requests with one expired session: all are answered, one presentation', async () => {
      const old = await expired()
      const answers = await Promise.all(Array.from({ length: 200 }, () => fleet.ask(old)))
      answers.forEach((answer, n) => fine(answer, `request ${n}`))
      assert.equal(counter.of(old.get('refresh_token')), 1)
      await over()
      await renewed(old.copy().take(answers[77]))
    }, 90),
    check('a token near its end is renewed beside the requests, which do not wait', async () => {
      const old = await session()
      await sleep((server.life * 0.6) * 1000)
      let jar = old.copy()
      for (let tries = 0; tries < 10 && jar.get('refresh_token') === old.get('refresh_token'); tries++) {
        jar = jar.take(fine(await fleet.ask(jar)))
        await sleep(100)
      }
      assert.notEqual(jar.get('refresh_token'), old.get('refresh_token'))
      assert.equal(counter.of(old.get('refresh_token')), 1)
    }, 60),
    check('thirty tabs that hang up at once: the session goes on', async () => {
      const old = await expired()
      await Promise.all(Array.from({ length: 30 }, (_, n) => fleet.hangUp(old, `/gone-${n}`)))
      await sleep(500)
      await renewed(old)
    }, 60),
    check('an answer that is lost on its way to the browser: the old cookies still get in', async () => {
      const old = await expired()
      await fleet.hangUp(old, '/lost', () => until('the app is asked', () => upstream.asked.includes('/lost')))
      await sleep(300)
      await renewed(await renewed(old) && old)
    }, 60),
    check('a sign-out ends the session at the server itself', async () => {
      const jar = await renewed(await expired())
      const answer = await fleet.ask(jar, { path: '/.doorkeep/sign-out', method: 'POST', headers: [['Origin', fleet.origin]] })
      assert.equal(answer.status, 303, answer.text)
      assert.equal(jar.copy().take(answer).size, 0, 'no cookie is left')
      await refused(jar)
      // Another gateway is told within a moment.
      await until('the login page', async () => (await fleet.ask(jar)).status === 302, 2)
    }, 60),
    check("the server's refusal, and nothing else, leads to the login", async () => {
      const jar = await session()
      await server.end(jar.get('refresh_token'))
      await over()
      const answer = await fleet.ask(jar)
      assert.equal(answer.status, 302)
      assert.ok(answer.headers.location.startsWith('http://id.localhost/login?redirect='), answer.headers.location)
      assert.equal(jar.take(answer).has('refresh_token'), false)
    }, 60)
  ])

  await check('a gateway that is restarted has the pair that no browser got', async () => {
    const old = await expired()
    await fleet.hangUp(old, '/before-restart', () => until('the app is asked', () => upstream.asked.includes('/before-restart')))
    await fleet.restart()
    await renewed(old)
  }, 60)
  await check("a gateway with a wrong secret signs nobody out, and says so", async () => {
    const wrong = server.backend(at).replace(/client_secret = ".*"/, 'client_secret = "not the secret"')
    const other = await startFleet({ name: `${name}-wrong`, folder, upstream: upstream.port, settings: settings(wrong), renew })
    const old = await expired()
    const answer = await other.ask(old)
    assert.equal(answer.status, 503, answer.text)
    assert.equal(answer.headers['set-cookie'], undefined)
    await other.stop()
    assert.match(readFileSync(other.logs[0], 'utf8'), /ERROR.*client_rejected|"level":"ERROR"/)
    fine(await fleet.ask(old))
  }, 60)
  if (server.introspection) {
    await check('tokens are asked about at the server: an ended session is not admitted any more', async () => {
      const backend = `introspection_url = "${at}${server.introspection}"\n${server.backend(at)}`
      const token = 'mode = "introspect"\n[session.token.introspect]\ncache = "1s"'
      const asking = await startFleet({ name: `${name}-asking`, folder, upstream: upstream.port, settings: settings(backend, token), renew })
      fine(await asking.ask(await session()))
      const old = await expired()
      const jar = old.copy().take(fine(await asking.ask(old), 'an expired session'))
      assert.notEqual(jar.get('refresh_token'), old.get('refresh_token'))
      fine(await asking.ask(jar))
      await server.end(jar.get('refresh_token'))
      await sleep(1500)
      assert.equal((await asking.ask(jar)).status, 302)
      await asking.stop()
    }, 60)
  }
  await check('nobody listens at the server: 503, nobody is signed out, and then it goes on', async () => {
    const old = await expired()
    counter.refuse()
    const answer = await fleet.ask(old)
    assert.equal(answer.status, 503)
    assert.ok(Number(answer.headers['retry-after']) > 0)
    assert.equal(answer.headers['set-cookie'], undefined)
    await counter.accept()
    await until('it goes on', async () => (await fleet.ask(old)).status === 200)
    assert.equal(counter.of(old.get('refresh_token')), 1)
  }, 60)
  await check('the server hangs: 503, live sessions are served, nobody is signed out, and then it goes on', async () => {
    const old = await expired()
    const live = await session('bob')
    server.pause()
    try {
      const [answer, other] = await Promise.all([fleet.ask(old), fleet.ask(live)])
      assert.equal(answer.status, 503)
      assert.ok(Number(answer.headers['retry-after']) > 0)
      assert.equal(answer.headers['set-cookie'], undefined)
      fine(other, 'a live session')
    } finally {
      server.resume()
    }
    const jar = old.copy()
    await until('it goes on', async () => { const answer = await fleet.ask(old); return answer.status === 200 && jar.take(answer) })
    assert.equal(counter.of(old.get('refresh_token')), 1, 'it was presented once, and its answer was waited for')
    await over()
    await renewed(jar)
  }, 90)

  await check('no refresh token was ever presented twice by the gateways', async () => {
    const { counts } = counter
    const twice = [...counts.values()].filter(count => count > 1).length
    assert.ok(counts.size > 20, `only ${counts.size} were presented at all`)
    assert.equal(twice, 0)
  })
  await check('no log line holds a token', async () => {
    const text = fleet.logs.map(log => readFileSync(log, 'utf8')).join('')
    for (const token of counter.counts.keys()) assert.ok(!text.includes(token), 'a refresh token is in the log')
    assert.ok(!/eyJ[\w-]+\.[\w-]+\./.test(text), 'a JWT is in the log')
  })
  await fleet.stop()
  counter.refuse()
}
