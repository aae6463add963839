// A service on @open-age/express-api behind the gateway. First it is shown that each vector works where the gateway is not
// in between, then that it does not through the gateway, on a protected and on a public path.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { start, stopAll } from '../lib/children.mjs'
import { forgeries, mint, startGateway } from '../lib/gateway.mjs'
import { emptyFolder, modules, output, tests } from '../lib/places.mjs'
import { check, until } from '../lib/report.mjs'
import { linesNamed, send, tap } from '../lib/wire.mjs'
import { BOSS, ELSEWHERE, vectors } from './vectors.mjs'

const folder = emptyFolder(output, 'apps', 'express-api')

async function startService () {
  const log = join(folder, 'service.log')
  start(process.execPath, [join(tests, 'apps', 'believer.cjs')], log, { NODE_PATH: modules, APP_ROOT_PATH: folder })
  const line = await until('the service starts', () => readFileSync(log, 'utf8').match(/^\{"app":\d+\}$/m))
  return JSON.parse(line[0]).app
}

/** Sends a vector, and answers { status, text, who }: who the service took the client for. */
async function ask (to, vector, { path = '/api/who', headers = [] } = {}) {
  const target = `${vector.absolute ? to.origin : ''}${path}${vector.query ? `?${vector.query}` : ''}`
  const lines = [['Host', to.host], ...headers, ...(vector.headers ?? [])]
  const answer = await send({ port: to.port, method: vector.method, path: target, headers: lines, body: vector.method === 'POST' ? '' : undefined })
  const who = answer.status === 200 ? JSON.parse(answer.text).data : undefined
  return { ...answer, who }
}

const smuggled = ({ text }) => text.includes(BOSS) || text.includes(ELSEWHERE)
const lasting = ({ who }) => ({ ...who, id: undefined })
const cookie = token => [['Cookie', `theme=dark; access_token=${token}; lang=en`]]
const script = [['Accept', 'application/json'], ['Sec-Fetch-Mode', 'cors'], ['Sec-Fetch-Site', 'same-origin']]

async function main () {
  const service = await startService()
  const direct = { port: service, host: `127.0.0.1:${service}`, origin: `http://127.0.0.1:${service}` }
  const honest = mint('alice')
  const forged = forgeries(BOSS, honest)
  const all = vectors(forged['not signed at all'])

  await check('directly: nobody is nobody', async () => {
    const answer = await ask(direct, {})
    assert.equal(answer.status, 200)
    assert.deepEqual(answer.who.permissions, ['guest'])
    assert.ok(!smuggled(answer))
  })
  for (const vector of all) {
    await check(`directly the service believes: ${vector.name}`, async () => {
      const answer = await ask(direct, vector)
      assert.ok(answer.status === 200 && smuggled(answer), `it does not (${answer.status} ${answer.text}), so this vector proves nothing`)
    })
  }

  for (const [how, token] of Object.entries(forged)) {
    await check(`directly the service believes a token ${how}`, async () => {
      // It looks at the expiry and at nothing else.
      const answer = await ask(direct, { headers: [['x-access-token', token]] })
      if (how.startsWith('expired')) assert.equal(answer.status, 403)
      else assert.ok(answer.status === 200 && smuggled(answer), `${answer.status} ${answer.text}`)
    })
  }

  const wire = await tap(service)
  const gateway = await startGateway({
    name: 'service',
    folder,
    upstream: wire.port,
    identity: '[identity.headers]\n"X-Auth-User" = "userId"',
    site: 'token = "x-access-token"\n[[site.rule]]\npath = "/api/public"\naccess = "public"'
  })
  const callers = {
    alice: { headers: cookie(honest) },
    'a session without role, tenant, organization': { headers: cookie(mint('alice', { sessionId: undefined, roleKey: undefined })) },
    'nobody, on a public path': { path: '/api/public' }
  }
  const usual = {}
  wire.take()

  await check('through the gateway: the service sees alice', async () => {
    const answer = await ask(gateway, {}, callers.alice)
    assert.equal(answer.status, 200, answer.text)
    assert.equal(answer.who.user.id, 'alice')
    assert.equal(answer.who.session.id, 'session-alice')
    assert.equal(answer.who.role.key, 'role-alice')
  })
  await check('through the gateway: exactly the verified token arrives, and no session cookie', async () => {
    const head = wire.take()
    assert.deepEqual(linesNamed(head, 'x-access-token'), [honest])
    assert.deepEqual(linesNamed(head, 'x-auth-user'), ['alice'])
    assert.deepEqual(linesNamed(head, 'authorization'), [])
    assert.deepEqual(linesNamed(head, 'cookie'), ['theme=dark; lang=en'])
  })
  for (const [name, caller] of Object.entries(callers)) {
    const known = await check(`through the gateway: ${name} gets an answer`, async () => {
      const answer = await ask(gateway, {}, caller)
      assert.equal(answer.status, 200, answer.text)
      usual[name] = lasting(answer)
    })
    if (!known) usual[name] = 'no answer to compare with'
  }
  for (const vector of all) {
    await check(`through the gateway it does not help: ${vector.name}`, async () => {
      for (const [name, caller] of Object.entries(callers)) {
        if (vector.method === 'POST' && caller.path) continue // the public path only knows GET
        const answer = await ask(gateway, vector, caller)
        assert.equal(answer.status, 200, `${name}: ${answer.status} ${answer.text}`)
        assert.ok(!smuggled(answer), `${name} became ${answer.text}`)
        assert.deepEqual(lasting(answer), usual[name], name)
      }
    })
  }

  await check('parameters that are not ours arrive byte for byte', async () => {
    wire.take()
    await ask(gateway, { query: 'b=%20x&role-key=role-boss&items[0]=%5B&c&[tenant-id]=tenant-boss&&d=+' }, callers.alice)
    assert.equal(wire.take().split('\r\n')[0], 'GET /api/who?b=%20x&items[0]=%5B&c&&d=+ HTTP/1.1')
  })
  await check('a query of nothing but ours arrives as no query, or an empty one', async () => {
    wire.take()
    await ask(gateway, { query: 'access_token=a.b.c&token=x&Role_Key=y' }, callers.alice)
    assert.match(wire.take(), /^GET \/api\/who\?? HTTP\/1\.1\r\n/)
  })
  for (const name of ['x_access_token', 'x.role.key', 'X_Session_Id', 'x-tenant_code', 'x-role-anything', 'x_organization.id']) {
    await check(`other readers' spellings do not arrive either: ${name}`, async () => {
      wire.take()
      await ask(gateway, { headers: [[name, 'boss']] }, callers.alice)
      const head = wire.take()
      assert.match(head, /^GET /)
      assert.ok(!head.includes(BOSS), head)
    })
  }
  for (const value of ['x-access-token', 'close, X-Access-Token', 'x-auth-user', 'cookie, host']) {
    await check(`Connection cannot take away what is ours: ${value}`, async () => {
      wire.take()
      const answer = await ask(gateway, { headers: [['Connection', value]] }, callers.alice)
      const head = wire.take()
      assert.equal(answer.status, 200, answer.text)
      assert.deepEqual(linesNamed(head, 'x-access-token'), [honest])
      assert.deepEqual(linesNamed(head, 'x-auth-user'), ['alice'])
      assert.deepEqual(linesNamed(head, 'cookie'), ['theme=dark; lang=en'])
    })
  }

  for (const [how, token] of Object.entries(forged)) {
    await check(`the gateway admits no token ${how}`, async () => {
      wire.take()
      const answer = await ask(gateway, {}, { headers: [...cookie(token), ...script] })
      assert.equal(answer.status, 401, answer.text)
      assert.equal(wire.take(), '', 'something was forwarded')
    })
  }
  await check('nobody gets 401 and a login address, and nothing is forwarded', async () => {
    wire.take()
    const answer = await ask(gateway, { headers: [['x-access-token', honest], ['Authorization', `Bearer ${honest}`]], query: `access-token=${honest}` }, { headers: script })
    assert.equal(answer.status, 401, answer.text)
    assert.match(answer.headers['content-type'], /^application\/problem\+json/)
    assert.ok(JSON.parse(answer.text).login.startsWith(`${gateway.login}?redirect=`))
    assert.equal(wire.take(), '', 'something was forwarded')
  })
  wire.close()
}

try {
  await main()
} catch (fault) {
  await check('the suite runs to its end', () => { throw fault })
} finally {
  await stopAll()
}
