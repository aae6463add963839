// The gateway before sanic-jwt itself, in each of the three ways in which an app can look for its tokens.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { generateKeyPairSync, randomBytes } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { alive, freePorts, start, stop, stopAll } from '../../lib/children.mjs'
import { doorkeep, emptyFolder, output } from '../../lib/places.mjs'
import { check, until } from '../../lib/report.mjs'
import { send } from '../../lib/wire.mjs'

const LIFE = 2 // seconds of an access token
const folder = emptyFolder(output, 'backends', 'sanic-jwt')
const secret = randomBytes(32).toString('hex')
const here = fileURLToPath(new URL('.', import.meta.url))
const python = process.env.PYTHON ?? 'python3'

async function startRedis () {
  const port = await freePorts()
  const child = start('redis-server', ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--dir', folder], join(folder, 'redis.log'))
  const ask = (...words) => execFileSync('redis-cli', ['-h', '127.0.0.1', '-p', String(port), ...words], { timeout: 5000, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim()
  await until('Redis answers', () => alive(child) && ask('ping') === 'PONG')
  return { port, child, ask }
}

/** An app that can be stopped and started again where it was. */
async function startApp (mode, redis, keys = { secret }) {
  const app = { port: await freePorts() }
  const settings = { port: app.port, redis: redis.port, mode, life: LIFE, ...keys }
  app.start = async () => {
    app.child = start(python, [join(here, 'app.py'), JSON.stringify(settings)], join(folder, `${mode}.log`))
    await until(`the app answers (${mode})`, async () => alive(app.child) && (await send({ port: app.port, path: '/asked' })).status === 200, 30)
  }
  app.refreshes = async () => JSON.parse((await send({ port: app.port, path: '/asked' })).text)['/auth/refresh'] ?? 0
  await app.start()
  return app
}

/** What stands behind the gateway: says whom it was told of, and which cookies it got. */
async function startUpstream () {
  const server = createServer((request, response) => {
    response.setHeader('content-type', 'application/json')
    response.end(JSON.stringify({ user: request.headers['x-auth-user'], scopes: request.headers['x-auth-scopes'], cookie: request.headers.cookie }))
  })
  server.unref()
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))
  return server.address().port
}

const HOW = {
  header: { backend: '', cookies: '' },
  cookies: { backend: 'tokens = "cookies"', cookies: '' },
  split: {
    backend: 'tokens = "cookies"\ncookies = { signature = "access_token_signature" }',
    cookies: 'signature = "access_token_signature"'
  }
}
const SIGNED = `algorithms = ["HS256"]\nkey = "${secret}"`

async function startGateway (name, mode, app, upstream, token = SIGNED) {
  const port = await freePorts()
  const site = (host, upstream, lines) => `
[[site]]
host = "${host}"
origin = "http://${host}:${port}"
upstream = ["http://127.0.0.1:${upstream}"]
${lines}`
  const settings = `
[listen]
http = "127.0.0.1:${port}"
[session]
backend = "sanic_jwt"
[session.cookies]
secure = false
${HOW[mode].cookies}
[session.lifetime]
refresh = "1h"
[session.token]
leeway = "0s"
${token}
[session.renew]
ahead = "0s"
[login]
url = "http://id.localhost:${port}/login"
[backend.sanic_jwt]
url = "http://127.0.0.1:${app.port}"
${HOW[mode].backend}
[identity.headers]
"X-Auth-User" = "user_id"
"X-Auth-Scopes" = "scopes"
${site('app.localhost', upstream, '')}
${site('api.localhost', app.port, 'token = "bearer"')}
`
  const file = join(folder, `${name}.toml`)
  writeFileSync(file, settings)
  const child = start(doorkeep, ['run', '--config', file], join(folder, `${name}.log`))
  const ask = (jar, { host = 'app.localhost', path = '/page', method = 'GET' } = {}) => {
    const cookie = [...jar].map(([name, value]) => `${name}=${value}`).join('; ')
    const headers = [['Host', `${host}:${port}`], ['Accept', 'text/html'], ['Sec-Fetch-Mode', 'navigate'], ['Sec-Fetch-Site', 'same-origin']]
    if (cookie) headers.push(['Cookie', cookie])
    return send({ port, path, method, headers, body: method === 'POST' ? '' : undefined })
  }
  await until('the gateway answers', async () => alive(child) && (await ask(new Map())).status === 302)
  return { port, ask }
}

/** Takes an answer's cookies, as a browser does. */
function take (jar, answer) {
  for (const line of answer.headers['set-cookie'] ?? []) {
    const [, name, value, rest] = line.match(/^([^=]+)=([^;]*)(.*)$/)
    if (/max-age=0(;|$)/i.test(rest)) jar.delete(name)
    else jar.set(name, value)
  }
  return jar
}

async function signIn (app, mode, username) {
  const body = JSON.stringify({ username, password: `pw-${username}` })
  const answer = await send({ port: app.port, method: 'POST', path: '/auth', headers: [['Content-Type', 'application/json']], body })
  assert.equal(answer.status, 200, answer.text)
  if (mode !== 'header') return take(new Map(), answer)
  return new Map(Object.entries(JSON.parse(answer.text)))
}

const expired = () => sleep((LIFE + 1) * 1000)
const sessionCookies = jar => [...jar.keys()].filter(name => name.endsWith('_token') || name.endsWith('_signature'))
const whole = jar => jar.get('access_token') + (jar.get('access_token_signature') ?? '')

async function facts (mode, redis, upstream) {
  const app = await startApp(mode, redis)
  const gateway = await startGateway(mode, mode, app, upstream)
  const fact = (name, body, seconds = 60) => check(`${mode}: ${name}`, body, seconds)
  const { ask } = gateway
  const admitted = async (jar, user = '7') => {
    const answer = await ask(jar)
    assert.equal(answer.status, 200, answer.text)
    const seen = JSON.parse(answer.text)
    assert.equal(seen.user, user)
    assert.equal(seen.cookie, undefined, 'a session cookie reached the app')
    return answer
  }
  const toLogin = async (jar, kept) => {
    const answer = await ask(jar)
    assert.equal(answer.status, 302, answer.text)
    assert.match(answer.headers.location, /^http:\/\/id\.localhost:\d+\/login\?redirect=/)
    assert.equal(sessionCookies(take(new Map(jar), answer)).length > 0, kept === 'kept', String(answer.headers['set-cookie']))
  }

  await fact('a session just begun is admitted', async () => {
    const jar = await signIn(app, mode, 'mina')
    await admitted(jar)
    assert.equal(await app.refreshes(), 0)
  })

  await fact('it goes on over three expiries with one refresh token', async () => {
    const jar = await signIn(app, mode, 'mina')
    const refresh = jar.get('refresh_token')
    const before = await app.refreshes()
    for (let turn = 1; turn <= 3; turn++) {
      await expired()
      const old = whole(jar)
      const answer = await admitted(jar)
      for (const line of answer.headers['set-cookie'].filter(line => !line.startsWith('doorkeep_'))) assert.match(line, /Max-Age=3600/)
      take(jar, answer)
      assert.notEqual(whole(jar), old)
      assert.equal(jar.get('refresh_token'), refresh)
      assert.equal(await app.refreshes(), before + turn)
    }
  })

  await fact('a hundred requests with an expired token all get their answer, with one renewal', async () => {
    const jar = await signIn(app, mode, 'mina')
    await expired()
    const before = await app.refreshes()
    const answers = await Promise.all(Array.from({ length: 100 }, () => ask(jar)))
    assert.deepEqual([...new Set(answers.map(answer => answer.status))], [200])
    assert.equal(new Set(answers.map(answer => whole(take(new Map(jar), answer)))).size, 1)
    assert.equal(await app.refreshes() - before, 1)
  })

  await fact('idle for five lives of an access token, it is renewed', async () => {
    const jar = await signIn(app, mode, 'mina')
    await sleep(LIFE * 5000)
    await admitted(jar)
  })

  await fact('a tampered, cut or missing access token leads to the login, and the app is not asked', async () => {
    const jar = await signIn(app, mode, 'mina')
    const before = await app.refreshes()
    const name = jar.has('access_token_signature') ? 'access_token_signature' : 'access_token'
    for (const value of [jar.get(name).slice(0, -4) + 'AAAA', jar.get(name).slice(0, -4), undefined]) {
      const bad = new Map(jar)
      value === undefined ? bad.delete(name) : bad.set(name, value)
      await toLogin(bad, 'kept')
    }
    assert.equal(await app.refreshes(), before)
  })

  await fact('a refresh token that is gone from Redis ends the session', async () => {
    const jar = await signIn(app, mode, 'mina')
    await expired()
    assert.equal(redis.ask('del', `${mode}:7`), '1')
    await toLogin(jar, 'cleared')
  })

  await fact('a second sign-in ends the first browser\'s session at its next renewal, and not before', async () => {
    const first = await signIn(app, mode, 'mina')
    await sleep(1100)
    const second = await signIn(app, mode, 'mina')
    await expired()
    await toLogin(first, 'cleared')
    await admitted(second)
  })

  await fact('a signed-out session does not come back, although its refresh token is still good at the app', async () => {
    const jar = await signIn(app, mode, 'mina')
    const answer = await ask(jar, { path: '/.doorkeep/sign-out', method: 'POST' })
    assert.equal(answer.status, 303)
    assert.deepEqual(sessionCookies(take(new Map(jar), answer)), [])
    await expired()
    const before = await app.refreshes()
    await toLogin(jar, 'cleared')
    assert.equal(await app.refreshes(), before)
    assert.equal(redis.ask('get', `${mode}:7`), jar.get('refresh_token'))
  })

  await fact('a stopped app signs nobody out, and started again it goes on', async () => {
    const jar = await signIn(app, mode, 'mina')
    await expired()
    await stop(app.child)
    for (let turn = 0; turn < 3; turn++) {
      const answer = await ask(jar)
      assert.equal(answer.status, 503)
      assert.ok(answer.headers['retry-after'])
      assert.equal(answer.headers['set-cookie'], undefined)
    }
    await app.start()
    await admitted(jar)
  })

  await fact('a user who is gone comes as 500 and is over', async () => {
    const jar = await signIn(app, mode, 'noor')
    await admitted(jar, '8')
    await expired()
    assert.equal((await send({ port: app.port, method: 'POST', path: '/forget/8', body: '' })).status, 200)
    await toLogin(jar, 'cleared')
  })
  return { app, fact, admitted, ask, toLogin }
}

/** What does not depend on where the app looks for tokens. */
async function more ({ app, ask }, redis, upstream) {
  await check('header: a scope that is missing is the app\'s 401, and no reason to renew', async () => {
    const jar = await signIn(app, 'header', 'mina')
    const before = await app.refreshes()
    const api = path => ask(jar, { host: 'api.localhost', path })
    assert.equal((await api('/mine')).status, 200, 'the verified token was handed on')
    const answer = await api('/edit')
    assert.equal(answer.status, 401)
    assert.match(answer.text, /Invalid scope/)
    assert.ok(!answer.headers['set-cookie']?.some(line => line.includes('_token')))
    await expired()
    assert.equal((await api('/mine')).status, 200, 'and the renewed one')
    assert.equal(await app.refreshes(), before + 1)
  })
  const asking = await startGateway('asked', 'header', app, upstream, 'mode = "introspect"')
  await check('without a key: the app says who it is, and an expired token is renewed', async () => {
    const jar = await signIn(app, 'header', 'mina')
    for (let turn = 0; turn < 2; turn++) {
      const answer = await asking.ask(jar)
      assert.equal(answer.status, 200, answer.text)
      assert.deepEqual([JSON.parse(answer.text).user, JSON.parse(answer.text).scopes], ['7', 'reader'])
      take(jar, answer)
      await expired()
    }
    const bad = new Map(jar).set('access_token', jar.get('access_token').slice(0, -4) + 'AAAA')
    assert.equal((await asking.ask(bad)).status, 302)
  })
  await check('a key pair: the app signs with the one half, and the gateway has the other', async () => {
    const pem = { publicKeyEncoding: { type: 'spki', format: 'pem' }, privateKeyEncoding: { type: 'pkcs8', format: 'pem' } }
    const pair = generateKeyPairSync('ec', { namedCurve: 'prime256v1', ...pem })
    const signing = await startApp('header', redis, { algorithm: 'ES256', private_key: pair.privateKey, public_key: pair.publicKey })
    const file = join(folder, 'public.pem')
    writeFileSync(file, pair.publicKey)
    const gateway = await startGateway('pair', 'header', signing, upstream, `algorithms = ["ES256"]\npem = "file:${file}"`)
    const jar = await signIn(signing, 'header', 'mina')
    for (let turn = 0; turn < 2; turn++) {
      const answer = await gateway.ask(jar)
      assert.equal(answer.status, 200, answer.text)
      take(jar, answer)
      await expired()
    }
    assert.equal(await signing.refreshes(), 1)
    const foreign = (await signIn(app, 'header', 'mina')).get('access_token')
    assert.equal((await gateway.ask(new Map(jar).set('access_token', foreign))).status, 302)
  })
  await check('an app that looks elsewhere for tokens is our fault, and signs nobody out', async () => {
    const wrong = await startGateway('wrong', 'cookies', app, upstream)
    const jar = await signIn(app, 'header', 'mina')
    await expired()
    const answer = await wrong.ask(jar)
    assert.equal(answer.status, 503)
    assert.equal(answer.headers['set-cookie'], undefined)
  })
  await check('an app whose Redis is away signs nobody out', async () => {
    const jar = await signIn(app, 'header', 'mina')
    await expired()
    await stop(redis.child)
    const answer = await ask(jar)
    assert.equal(answer.status, 503)
    assert.equal(answer.headers['set-cookie'], undefined)
  })
}

try {
  const redis = await startRedis()
  const upstream = await startUpstream()
  const [header] = await Promise.all(Object.keys(HOW).map(mode => facts(mode, redis, upstream)))
  await more(header, redis, upstream)
} catch (fault) {
  await check('the suite runs to its end', () => { throw fault })
} finally {
  await stopAll()
}
