// Radicale, a calendar server that believes the header X-Remote-User, behind the gateway. First it is shown what a client
// could do without the gateway, then that two users' sessions reach their own calendars and nobody else's.
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { alive, freePorts, start, stopAll } from '../lib/children.mjs'
import { forgeries, mint, startGateway } from '../lib/gateway.mjs'
import { emptyFolder, output, python, work } from '../lib/places.mjs'
import { check, until } from '../lib/report.mjs'
import { linesNamed, send, tap } from '../lib/wire.mjs'

const folder = emptyFolder(output, 'apps', 'radicale')

async function startRadicale () {
  const port = await freePorts()
  const file = join(folder, 'radicale.conf')
  writeFileSync(file, `
[server]
hosts = 127.0.0.1:${port}
[auth]
type = http_x_remote_user
delay = 0
[rights]
type = owner_only
[storage]
filesystem_folder = ${emptyFolder(work, 'radicale')}
`)
  const child = start(python, ['-m', 'radicale', '--config', file], join(folder, 'radicale.log'))
  await until('Radicale answers', async () => alive(child) && send({ port, path: '/.web/' }))
  return port
}

const event = uid => `BEGIN:VCALENDAR
VERSION:2.0
PRODID:-//doorkeep//tests//EN
BEGIN:VEVENT
UID:${uid}
DTSTAMP:20260101T000000Z
DTSTART:20260102T150000Z
SUMMARY:Tea at the harbour
END:VEVENT
END:VCALENDAR
`.replaceAll('\n', '\r\n')

const cookie = token => ['Cookie', `lang=en; access_token=${token}; session_id=anything`]
const put = path => ({ method: 'PUT', path, headers: [['Content-Type', 'text/calendar']], body: event(path) })
const list = (path, depth = '1') => ({
  method: 'PROPFIND',
  path,
  headers: [['Depth', depth], ['Content-Type', 'application/xml']],
  body: '<?xml version="1.0"?><propfind xmlns="DAV:"><prop><displayname/><current-user-principal/></prop></propfind>'
})
const get = path => ({ method: 'GET', path })

/** Header lines that try to make the caller alice. */
const SPOOFS = {
  'X-Remote-User': [['X-Remote-User', 'alice']],
  'x-remote-user': [['x-remote-user', 'alice']],
  X_Remote_User: [['X_Remote_User', 'alice']],
  'x_remote-user': [['x_remote-user', 'alice']],
  'X-REMOTE_USER': [['X-REMOTE_USER', 'alice']]
}

/** More of them, which help nobody here even without a gateway; other apps read some of them. */
const OTHER_SPOOFS = {
  'x.remote.user': [['x.remote.user', 'alice']],
  'X-Remote-User twice': [['X-Remote-User', 'alice'], ['X-Remote-User', 'alice']],
  'X-Remote-User and X_Remote_User': [['X-Remote-User', 'bob'], ['X_Remote_User', 'alice']],
  'Remote-User': [['Remote-User', 'alice'], ['Remote_User', 'alice']],
  'a password': [['Authorization', `Basic ${Buffer.from('alice:').toString('base64')}`]],
  'Connection: X-Remote-User': [['Connection', 'X-Remote-User']],
  'Connection: X-Remote-User, with one': [['Connection', 'close, X-Remote-User'], ['X-Remote-User', 'alice']],
  'Connection in two lines': [['Connection', 'X_Remote_User'], ['Connection', 'close'], ['X_Remote_User', 'alice']],
  'a second access cookie': [['Cookie', `access_token=${mint('alice', {}, { key: 'another key' })}`]]
}

async function main () {
  const radicale = await startRadicale()
  const direct = request => send({ port: radicale, ...request })
  const spoofed = (request, lines) => ({ ...request, headers: [...(request.headers ?? []), ...lines] })

  await check('directly: whoever says alice makes alice\'s calendar', async () => {
    const lines = SPOOFS['X-Remote-User']
    assert.equal((await direct(spoofed({ method: 'MKCALENDAR', path: '/alice/before/' }, lines))).status, 201)
    assert.equal((await direct(spoofed(put('/alice/before/tea.ics'), lines))).status, 201)
  })
  await check('directly: nobody and bob do not get it', async () => {
    assert.notEqual((await direct(get('/alice/before/tea.ics'))).status, 200)
    assert.notEqual((await direct(spoofed(get('/alice/before/tea.ics'), [['X-Remote-User', 'bob']]))).status, 200)
  })
  for (const [name, lines] of Object.entries(SPOOFS)) {
    await check(`directly Radicale believes: ${name}`, async () => {
      const answer = await direct(spoofed(get('/alice/before/tea.ics'), lines))
      assert.equal(answer.status, 200, 'it does not, so this line proves nothing')
      assert.match(answer.text, /Tea at the harbour/)
    })
  }

  const wire = await tap(radicale)
  const gateway = await startGateway({
    name: 'calendar', folder, upstream: wire.port, identity: '[identity.headers]\n"X-Remote-User" = "userId"', site: ''
  })
  const through = (request, ...lines) => send({ ...spoofed(request, lines), port: gateway.port, headers: [['Host', gateway.host], ...(request.headers ?? []), ...lines] })
  const alice = cookie(mint('alice'))
  const bob = cookie(mint('bob'))

  await check('alice makes a calendar and puts an event into it', async () => {
    assert.equal((await through({ method: 'MKCALENDAR', path: '/alice/cal/' }, alice)).status, 201)
    assert.equal((await through(put('/alice/cal/tea.ics'), alice)).status, 201)
    const answer = await through(get('/alice/cal/tea.ics'), alice)
    assert.equal(answer.status, 200)
    assert.match(answer.text, /Tea at the harbour/)
  })
  await check('Radicale is told alice once, and gets no session cookie', async () => {
    wire.take()
    await through(get('/alice/cal/tea.ics'), alice)
    const head = wire.take()
    assert.deepEqual(linesNamed(head, 'x-remote-user'), ['alice'])
    assert.deepEqual(linesNamed(head, 'cookie'), ['lang=en'])
  })
  await check('alice finds it in her list', async () => {
    const answer = await through(list('/alice/'), alice)
    assert.equal(answer.status, 207)
    assert.match(answer.text, /\/alice\/cal\//)
    assert.match(answer.text, /current-user-principal>\s*<href>\/alice\//)
  })
  await check('alice moves the event, so Radicale knows the address that browsers see', async () => {
    const move = { method: 'MOVE', path: '/alice/cal/early.ics', headers: [['Destination', `${gateway.origin}/alice/cal/late%20tea.ics`]] }
    assert.equal((await through(put('/alice/cal/early.ics'), alice)).status, 201)
    assert.equal((await through(move, alice)).status, 201)
    assert.equal((await through(get('/alice/cal/late%20tea.ics'), alice)).status, 200)
    assert.equal((await through(get('/alice/cal/early.ics'), alice)).status, 404)
  })
  await check('bob has his own calendars, at the same time', async () => {
    assert.equal((await through({ method: 'MKCALENDAR', path: '/bob/cal/' }, bob)).status, 201)
    const asked = Array.from({ length: 20 }, (_, n) => through(list('/', '0'), n % 2 ? alice : bob))
    for (const [n, answer] of (await Promise.all(asked)).entries()) {
      assert.match(answer.text, n % 2 ? /<href>\/alice\// : /<href>\/bob\//)
    }
  })

  const closedToBob = async (...lines) => {
    for (const request of [get('/alice/cal/tea.ics'), get('/alice/before/tea.ics'), list('/alice/'), list('/alice/cal/'), put('/alice/cal/tea.ics'), { method: 'DELETE', path: '/alice/cal/tea.ics' }]) {
      const answer = await through(request, bob, ...lines)
      assert.ok([403, 404].includes(answer.status), `${request.method} ${request.path}: ${answer.status}`)
      assert.doesNotMatch(answer.text, /Tea at the harbour/)
    }
  }
  const stillBob = async (...lines) => {
    const answer = await through(list('/', '0'), bob, ...lines)
    assert.equal(answer.status, 207, answer.text)
    assert.match(answer.text, /<href>\/bob\//)
    assert.doesNotMatch(answer.text, /alice/)
  }
  await check('bob does not get alice\'s', () => closedToBob())
  for (const [name, lines] of Object.entries({ ...SPOOFS, ...OTHER_SPOOFS })) {
    if (name === 'a second access cookie') continue
    await check(`bob stays bob with ${name}`, async () => {
      await closedToBob(...lines)
      await stillBob(...lines)
    })
  }
  await check('bob with a second access cookie is nobody', async () => {
    wire.take()
    const answer = await through(list('/', '0'), bob, ...OTHER_SPOOFS['a second access cookie'])
    assert.equal(answer.status, 401)
    assert.equal(wire.take(), '', 'something was forwarded')
  })
  await check('alice\'s event is still there', async () => {
    assert.equal((await through(get('/alice/cal/tea.ics'), alice)).status, 200)
  })

  const turnedAway = async (request, status, ...lines) => {
    wire.take()
    const answer = await through(request, ...lines)
    assert.equal(answer.status, status, answer.text)
    assert.equal(wire.take(), '', 'something was forwarded')
    return answer
  }
  await check('a browser without a session is sent to the login page, and back to where it was', async () => {
    const answer = await turnedAway(get('/alice/cal/late%20tea.ics?a=1&b=%2F'), 302, ['Accept', 'text/html,*/*;q=0.8'], ['Sec-Fetch-Mode', 'navigate'])
    const page = encodeURIComponent(`${gateway.origin}/alice/cal/late%20tea.ics?a=1&b=%2F`)
    assert.equal(answer.headers.location, `${gateway.login}?redirect=${page}`)
    assert.match(answer.headers['cache-control'], /no-store/)
  })
  await check('a program without a session gets 401', async () => {
    await turnedAway(list('/alice/'), 401)
    await turnedAway(put('/alice/cal/nobody.ics'), 401)
    await turnedAway({ method: 'DELETE', path: '/alice/cal/tea.ics' }, 401)
  })
  for (const [name, lines] of Object.entries({ ...SPOOFS, ...OTHER_SPOOFS })) {
    await check(`nobody stays nobody with ${name}`, () => turnedAway(get('/alice/cal/tea.ics'), 401, ['Accept', '*/*'], ...lines))
  }
  for (const [how, token] of Object.entries(forgeries('alice', mint('bob')))) {
    await check(`nobody is alice by a token ${how}`, () => turnedAway(get('/alice/cal/tea.ics'), 401, ['Accept', '*/*'], cookie(token)))
  }
  await check('a page elsewhere cannot write with alice\'s cookies', async () => {
    await turnedAway(put('/alice/cal/planted.ics'), 403, alice, ['Origin', 'http://elsewhere.example'])
    await turnedAway(put('/alice/cal/planted.ics'), 403, alice, ['Origin', gateway.origin], ['Sec-Fetch-Site', 'cross-site'])
    assert.equal((await through(get('/alice/cal/planted.ics'), alice)).status, 404)
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
