// The gateway before spring-security-oauth2, with a proxy between them that can fail, and an app that asks about each token.
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { createServer, request } from 'node:http'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { alive, freePorts, start, stop, stopAll } from '../../lib/children.mjs'
import { doorkeep, emptyFolder, output } from '../../lib/places.mjs'
import { check, until } from '../../lib/report.mjs'
import { send } from '../../lib/wire.mjs'

const LIFE = 6 // seconds of an access token
const KEPT = 1 // seconds for which the gateway keeps the word that a token is active
const CLIENT = 'Basic ' + Buffer.from('egov-user-client:').toString('base64')
const folder = emptyFolder(output, 'backends', 'egov-user')
const listen = server => { server.unref(); return new Promise(resolve => server.listen(0, '127.0.0.1', () => resolve(server.address().port))) }

async function startService () {
  const redis = await freePorts()
  start('redis-server', ['--port', String(redis), '--bind', '127.0.0.1', '--save', '', '--dir', folder], join(folder, 'redis.log'))
  const port = await freePorts()
  const java = process.env.JAVA_HOME ? join(process.env.JAVA_HOME, 'bin', 'java') : 'java'
  const child = start(java, [
    '-Xmx160m', '--add-opens', 'java.base/java.lang=ALL-UNNAMED', '--add-opens', 'java.base/java.io=ALL-UNNAMED',
    '-jar', process.env.JAR, `--server.port=${port}`, '--server.address=127.0.0.1', '--server.context-path=/user',
    `--spring.redis.port=${redis}`, '--spring.redis.host=127.0.0.1', `--life.access=${LIFE}`, '--life.refresh=600'
  ], join(folder, 'service.log'))
  await until('the service answers', async () => alive(child) && (await send({ port, method: 'POST', path: '/user/_details', headers: FORM, body: 'access_token=x' })).status === 400, 90)
  return port
}

const FORM = [['Content-Type', 'application/x-www-form-urlencoded']]
const form = fields => new URLSearchParams(fields).toString()

/** Between gateway and service: counts calls by path, and does to each what `faults` says. */
async function startBetween (service) {
  const between = { calls: {}, faults: {} }
  const server = createServer((near, answer) => {
    const path = near.url.split('?')[0]
    between.calls[path] = (between.calls[path] ?? 0) + 1
    between.faults[path] ? between.faults[path](near, answer) : passOn(near, answer)
  })
  const passOn = (near, answer) => {
    const far = request({ host: '127.0.0.1', port: service, method: near.method, path: near.url, headers: near.headers, agent: false }, got => {
      answer.writeHead(got.statusCode, got.headers)
      got.pipe(answer)
    })
    far.on('error', () => answer.destroy())
    near.pipe(far)
  }
  between.port = await listen(server)
  between.count = path => between.calls[path] ?? 0
  return between
}

const say = (status, type, text) => (near, answer) => { near.resume(); answer.writeHead(status, { 'content-type': type, connection: 'close' }); answer.end(text) }
const json = (status, body) => say(status, 'application/json', JSON.stringify(body))
const FAULTS = {
  'a 500 of its own': json(500, { error: 'server_error' }),
  'a 502': say(502, 'text/html', '<p>Bad Gateway'),
  'a 503 page': say(503, 'text/html', '<p>Unavailable'),
  'a 504': say(504, 'text/html', '<p>Timeout'),
  'a 429': say(429, 'text/plain', 'slow down'),
  'a 401 about the gateway': json(401, { status: 401, error: 'Unauthorized' }),
  'a 200 page': say(200, 'text/html', '<p>Welcome'),
  'an empty 200': say(200, 'application/json', ''),
  'a 200 that says nothing': json(200, { ok: true }),
  'a redirect': (near, answer) => { near.resume(); answer.writeHead(302, { location: '/elsewhere' }); answer.end() },
  'half an answer': say(200, 'application/json', '{"access_token":"x","uu'),
  'a cut answer': (near, answer) => { near.resume(); answer.writeHead(200, { 'content-type': 'application/json', 'content-length': '500' }); answer.write('{"uuid":'); setTimeout(() => answer.destroy(), 20) },
  'a huge answer': say(200, 'application/json', `{"userName":"${'x'.repeat(1 << 20)}"}`),
  silence: near => near.resume(),
  'a reset': near => near.socket.resetAndDestroy()
}

/** An app that takes a request only with a token that the service knows at that moment. */
async function startApp (service) {
  return listen(createServer(async (near, answer) => {
    near.resume()
    if (near.url.startsWith('/slow')) await sleep(300)
    const token = near.headers.authorization?.replace('Bearer ', '')
    const told = await send({ port: service, method: 'POST', path: '/user/_details', headers: FORM, body: form({ access_token: token ?? '' }) })
    answer.writeHead(told.status === 200 ? 200 : 401, { 'content-type': 'application/json' })
    answer.end(JSON.stringify({ user: near.headers['x-auth-user'], roles: near.headers['x-auth-roles'], token }))
  }))
}

async function startGateway (between, app) {
  const port = await freePorts()
  const host = `app.localhost:${port}`
  const file = join(folder, 'doorkeep.toml')
  writeFileSync(file, `
[listen]
http = "127.0.0.1:${port}"
[session]
backend = "egov_user"
[session.cookies]
secure = false
[session.token.introspect]
cache = "${KEPT}s"
timeout = "1s"
[session.renew]
timeout = "1s"
give_up = "2s"
[login]
url = "http://id.localhost/login"
[backend.egov_user]
url = "http://127.0.0.1:${between}"
[identity.headers]
"X-Auth-User" = "uuid"
"X-Auth-Roles" = "roles.code"
[[site]]
host = "app.localhost"
origin = "http://${host}"
upstream = ["http://127.0.0.1:${app}"]
token = "bearer"
[[site.rule]]
path = "/optional/*"
access = "optional"
`)
  const child = start(doorkeep, ['run', '--config', file], join(folder, 'doorkeep.log'))
  await until('the gateway answers', async () => alive(child) && (await send({ port, headers: [['Host', host]] })).status < 500)
  return { port, host }
}

const service = await startService()
const between = await startBetween(service)
const gateway = await startGateway(between.port, await startApp(service))

async function signIn (user) {
  const body = form({ grant_type: 'password', username: user, password: [...user].reverse().join(''), scope: 'read', tenantId: 'pb', userType: 'CITIZEN' })
  const told = await send({ port: service, method: 'POST', path: '/user/oauth/token', headers: [['Authorization', CLIENT], ...FORM], body })
  assert.equal(told.status, 200, told.text)
  const { access_token: access, refresh_token: refresh } = JSON.parse(told.text)
  return { access_token: access, refresh_token: refresh }
}

async function ask (jar, path = '/page', { method = 'GET', mode = 'cors', body } = {}) {
  const cookie = Object.entries(jar).map(([name, value]) => `${name}=${value}`).join('; ')
  const headers = [['Host', gateway.host], ['Cookie', cookie], ['Sec-Fetch-Mode', mode], ['Sec-Fetch-Site', 'same-origin']]
  const answer = await send({ port: gateway.port, method, path, headers, body })
  answer.set = answer.headers['set-cookie'] ?? []
  return answer
}

/** Keeps the cookies of an answer. */
function take (jar, answer) {
  for (const line of answer.set) {
    const [, name, value] = /^([^=]+)=([^;]*)/.exec(line)
    if (/max-age=0/i.test(line)) delete jar[name]
    else jar[name] = value
  }
  return answer
}

const isLive = async token => (await send({ port: service, method: 'POST', path: '/user/_details', headers: FORM, body: form({ access_token: token }) })).status === 200
const renewals = () => between.count('/user/oauth/token')

await check('the app is told who signed in, and which roles', async () => {
  const jar = await signIn('bo')
  const answer = take(jar, await ask(jar))
  assert.equal(answer.status, 200)
  assert.deepEqual(JSON.parse(answer.text), { user: 'uuid-of-bo', roles: 'CLERK', token: jar.access_token })
  assert.ok(jar.doorkeep_state, 'notes of whose it is')
})

await check('a session goes on over several expiries with the same refresh token', async () => {
  const jar = await signIn('ana')
  const { refresh_token: refresh } = jar
  take(jar, await ask(jar))
  const seen = new Set([jar.access_token])
  for (let turn = 0; turn < 3; turn++) {
    await sleep(LIFE * 1000 + 300)
    const before = renewals()
    const answer = take(jar, await ask(jar))
    assert.equal(answer.status, 200)
    assert.equal(JSON.parse(answer.text).token, jar.access_token)
    assert.equal(renewals(), before + 1)
    assert.ok(!answer.set.some(line => line.startsWith('refresh_token=')))
    seen.add(jar.access_token)
  }
  assert.equal(seen.size, 4)
  assert.equal(jar.refresh_token, refresh)
}, 60)

await check('many at a time see no 401 while old tokens die, and each is renewed once', async () => {
  const jar = await signIn('cy')
  take(jar, await ask(jar))
  const before = renewals()
  const tokens = new Set()
  const statuses = {}
  const end = Date.now() + 3 * LIFE * 1000
  await Promise.all(Array.from({ length: 12 }, async (_, n) => {
    while (Date.now() < end) {
      const answer = take(jar, await ask(jar, n % 3 === 0 ? '/slow' : '/data'))
      statuses[answer.status] = (statuses[answer.status] ?? 0) + 1
      if (answer.status === 200) tokens.add(JSON.parse(answer.text).token)
    }
  }))
  assert.deepEqual(Object.keys(statuses), ['200'], JSON.stringify(statuses))
  assert.ok(statuses[200] > 100, JSON.stringify(statuses))
  assert.ok(tokens.size >= 3, `${tokens.size} tokens`)
  assert.equal(renewals() - before, tokens.size - 1, 'no renewal but those whose tokens were used')
}, 60)

await check('other methods while old tokens die: none is sent twice, few meet a dying token, nobody is signed out', async () => {
  const jar = await signIn('cy')
  take(jar, await ask(jar))
  const statuses = { GET: {}, POST: {} }
  const end = Date.now() + 3 * LIFE * 1000
  await Promise.all(Array.from({ length: 12 }, async (_, n) => {
    const method = n % 2 === 0 ? 'GET' : 'POST'
    while (Date.now() < end) {
      const answer = take(jar, await ask(jar, n % 3 === 0 ? '/slow' : '/data', { method, body: method === 'POST' ? 'x=1' : undefined }))
      statuses[method][answer.status] = (statuses[method][answer.status] ?? 0) + 1
    }
  }))
  // A POST that is upstream while another request renews has its token die under way: it is not repeated, for the app may
  // have acted on it.
  console.log(`   ${JSON.stringify(statuses)}: a POST's 401 is a token that a renewal beside it ended, and is not sent again`)
  assert.deepEqual(Object.keys(statuses.GET), ['200'])
  const { 200: fine = 0, 401: died = 0, ...other } = statuses.POST
  assert.deepEqual(other, {})
  assert.ok(fine > 50 && died < fine / 20, JSON.stringify(statuses))
  assert.equal((await ask(jar)).status, 200)
}, 60)

await check('a second browser with the same tokens goes on when the first one is renewed', async () => {
  const one = await signIn('ana')
  const other = { ...one }
  take(one, await ask(one))
  take(other, await ask(other))
  assert.equal(one.access_token, other.access_token)
  // Renewed past the gateway, as by another one: the token that both hold is dead at once.
  await send({ port: service, method: 'POST', path: '/user/oauth/token', headers: [['Authorization', CLIENT], ...FORM], body: form({ grant_type: 'refresh_token', refresh_token: one.refresh_token }) })
  assert.equal(await isLive(one.access_token), false)
  for (const jar of [one, other]) {
    assert.equal(take(jar, await ask(jar)).status, 200)
    assert.equal(await isLive(jar.access_token), true)
  }
  assert.equal(one.access_token, other.access_token)
})

await check('signing out ends the token, and the refresh token that the service leaves alive comes back for nobody', async () => {
  const jar = await signIn('bo')
  take(jar, await ask(jar))
  const old = { ...jar }
  const answer = take(jar, await ask(jar, '/.doorkeep/sign-out', { method: 'POST', body: '' }))
  assert.equal(answer.status, 204)
  assert.deepEqual(Object.keys(jar), [])
  assert.equal(await isLive(old.access_token), false)
  const before = renewals()
  assert.equal((await ask(old)).status, 401)
  assert.equal((await ask(old, '/page', { mode: 'navigate' })).status, 302)
  assert.equal(renewals(), before)
  const still = await send({ port: service, method: 'POST', path: '/user/oauth/token', headers: [['Authorization', CLIENT], ...FORM], body: form({ grant_type: 'refresh_token', refresh_token: old.refresh_token }) })
  assert.equal(still.status, 200, 'the service would have renewed it')
})

await check('a sign-in after a sign-out is let in, also where the token had been replaced before', async () => {
  const jar = await signIn('cy')
  take(jar, await ask(jar))
  await send({ port: service, method: 'POST', path: '/user/oauth/token', headers: [['Authorization', CLIENT], ...FORM], body: form({ grant_type: 'refresh_token', refresh_token: jar.refresh_token }) })
  assert.equal((await ask(jar, '/.doorkeep/sign-out', { method: 'POST', body: '' })).status, 204)
  const anew = await signIn('cy')
  assert.notEqual(anew.refresh_token, jar.refresh_token)
  assert.equal((await ask(anew)).status, 200)
})

await check('a revoked token is refused within the time for which the word about it is kept', async () => {
  const jar = await signIn('ana')
  take(jar, await ask(jar))
  delete jar.refresh_token
  await send({ port: service, method: 'POST', path: '/user/_logout', headers: [['Content-Type', 'application/json']], body: JSON.stringify({ access_token: jar.access_token }) })
  await sleep(KEPT * 1000 + 1100)
  const answer = await ask(jar, '/page', { mode: 'navigate' })
  assert.equal(answer.status, 302)
})

for (const [name, fault] of Object.entries(FAULTS)) {
  await check(`${name} to a question about a token signs nobody out and lets nobody in`, async () => {
    const jar = await signIn('ana')
    take(jar, await ask(jar))
    const before = renewals()
    await sleep(KEPT * 1000 + 1000)
    between.faults['/user/_details'] = fault
    try {
      for (const mode of ['navigate', 'cors']) {
        const answer = await ask(jar, '/page', { mode })
        assert.equal(answer.status, 503)
        assert.deepEqual(answer.set, [])
        assert.ok(answer.headers['retry-after'])
      }
      const open = await ask(jar, '/optional/page')
      assert.deepEqual([open.status, JSON.parse(open.text).user], [401, undefined], 'for nobody: this app then refuses')
    } finally {
      delete between.faults['/user/_details']
    }
    // A service that asks for a pause gets it.
    await until('it goes on', async () => { const answer = await ask(jar); return answer.status === 200 && take(jar, answer) }, 15)
    assert.ok(renewals() <= before + 1)
  }, 40)
}

for (const [name, fault] of Object.entries(FAULTS)) {
  await check(`${name} to a renewal signs nobody out`, async () => {
    const jar = await signIn('bo')
    take(jar, await ask(jar))
    // Ended at the service: the gateway has to renew.
    await send({ port: service, method: 'POST', path: '/user/_logout', headers: [['Content-Type', 'application/json']], body: JSON.stringify({ access_token: jar.access_token }) })
    await sleep(KEPT * 1000 + 1000)
    between.faults['/user/oauth/token'] = fault
    try {
      const answer = await ask(jar, '/page', { mode: 'navigate' })
      assert.equal(answer.status, 503)
      assert.deepEqual(answer.set, [])
    } finally {
      delete between.faults['/user/oauth/token']
    }
    const back = await until('the session goes on', async () => {
      const answer = take(jar, await ask(jar, '/page', { mode: 'navigate' }))
      assert.ok([200, 503].includes(answer.status), `status ${answer.status}`)
      return answer.status === 200 && answer
    }, 5)
    assert.equal(JSON.parse(back.text).user, 'uuid-of-bo')
  })
}

await stopAll()
