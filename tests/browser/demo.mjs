// A real browser goes through `doorkeep demo`: signs in, stays in while tokens expire, is asked to sign in once its session
// has ended, and signs out for good. Tokens live for seconds here, so the waits are real ones.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { startBrowser } from '../lib/browser.mjs'
import { alive, freePorts, start, stopAll } from '../lib/children.mjs'
import { doorkeep, emptyFolder, output } from '../lib/places.mjs'
import { check, until } from '../lib/report.mjs'
import { send } from '../lib/wire.mjs'

const ACCESS_LIFE = 6
const REFRESH_LIFE = 14
const COOKIES = ['access_token', 'refresh_token', 'session_id']

const folder = emptyFolder(output, 'browser')
const port = await freePorts(4)
const app = `http://localhost:${port}`
const loginPage = `http://localhost:${port + 1}/login`
const log = join(folder, 'demo.log')
const seconds = count => sleep(count * 1000)

/** Where a browser without a session is sent that asked for `page`. */
const loginFor = page => `${loginPage}?redirect=${encodeURIComponent(page)}`

let browser, context

async function startDemo () {
  const child = start(doorkeep, ['demo', '--port', `${port}`, '--access-life', `${ACCESS_LIFE}s`, '--refresh-life', `${REFRESH_LIFE}s`], log)
  await until('the demo answers', async () => {
    alive(child)
    const answers = await Promise.all([send({ port, headers: [['Host', `localhost:${port}`]] }), send({ port: port + 1, path: '/login', headers: [['Host', `localhost:${port + 1}`]] })])
    return answers.every(answer => answer.status < 500)
  })
}

let shots = 0
const shot = (page, name) => page.screenshot({ path: join(folder, `${String(++shots).padStart(2, '0')}-${name}.png`) })

async function newTab (url) {
  const page = await context.newPage()
  page.setDefaultTimeout(10_000)
  if (url) await page.goto(url)
  return page
}

async function signIn (page, password = 'demo-asha', name = 'asha') {
  await page.fill('input[name=name]', name)
  await page.fill('input[name=password]', password)
  await Promise.all([page.waitForLoadState('load'), page.waitForEvent('framenavigated'), page.click('form button[type=submit]')])
  await page.waitForLoadState('load')
}

/** Notes what a tab does from now on: pages it goes to, what `/status` answers, requests that fail. */
function watch (page) {
  const seen = { pages: [], statuses: [], failures: [] }
  page.on('framenavigated', frame => { if (frame === page.mainFrame()) seen.pages.push(frame.url()) })
  page.on('response', answer => { if (new URL(answer.url()).pathname === '/status') seen.statuses.push(answer.status()) })
  page.on('requestfailed', request => seen.failures.push(`${request.url()} ${request.failure()?.errorText}`))
  return seen
}

function undisturbed (seen, atLeast) {
  assert.deepEqual(seen.pages, [], 'the tab went elsewhere')
  assert.deepEqual(seen.failures, [], 'requests failed')
  assert.ok(seen.statuses.length >= atLeast, `only ${seen.statuses.length} answers`)
  assert.deepEqual(seen.statuses.filter(status => status !== 200), [], 'answers other than 200')
}

const number = async (page, selector) => Number(await page.textContent(selector))
const ours = async () => (await context.cookies(app)).filter(({ name }) => COOKIES.includes(name))
const park = () => Promise.all(context.pages().map(page => page.goto('about:blank')))
const alone = async kept => { for (const page of context.pages()) if (page !== kept) await page.close() }

/** Cookies as a browser would still have them that does not keep to their Max-Age. */
const undying = cookies => cookies.map(({ name, value }) => ({ name, value, url: app, httpOnly: true, sameSite: 'Lax' }))

async function main () {
  const tab = await newTab()
  const deep = `${app}/admin/?tab=1%202`

  for (const page of [`${app}/`, deep]) {
    await check(`without a session ${page.slice(app.length)} leads to the login page, which knows it`, async () => {
      const answer = await tab.goto(page)
      assert.equal(tab.url(), loginFor(page))
      const first = answer.request().redirectedFrom()
      assert.equal((await first.response()).status(), 302)
      assert.equal(first.redirectedFrom(), null, 'more than one redirect')
    })
  }
  await check('a wrong password is refused, and the page to go back to is kept', async () => {
    await shot(tab, 'login')
    await signIn(tab, 'not it')
    await tab.waitForSelector('[role=alert]')
    assert.ok(tab.url().startsWith(loginPage))
    assert.equal(await tab.inputValue('input[name=redirect]'), deep)
    assert.deepEqual(await ours(), [])
    await shot(tab, 'wrong-password')
  })
  await check('signing in leads back to exactly the page asked for', async () => {
    await signIn(tab)
    assert.equal(tab.url(), deep)
    assert.equal(await tab.textContent('h1'), 'Admin office')
    await shot(tab, 'admin')
  })
  await check('no script can read the session cookies', async () => {
    const cookies = await ours()
    assert.deepEqual(cookies.map(({ name }) => name).sort(), [...COOKIES].sort())
    for (const { name, httpOnly, sameSite } of cookies) assert.ok(httpOnly && sameSite === 'Lax', name)
    const readable = await tab.evaluate(() => globalThis.document.cookie)
    assert.ok(!COOKIES.some(name => readable.includes(name)), readable)
  })

  await check('a busy page stays for more than three token lives, and notices nothing', async () => {
    await tab.goto(`${app}/`)
    assert.equal(await tab.textContent('.who small'), 'admin')
    const seen = watch(tab)
    const before = await number(tab, '#renewals')
    const lows = []
    const long = 3.5 * ACCESS_LIFE * 1000
    for (const end = Date.now() + long; Date.now() < end; await sleep(250)) lows.push(await number(tab, '#left'))
    await until('three renewals are on the page', async () => await number(tab, '#renewals') - before >= 3)
    undisturbed(seen, long / 1000 * 0.7)
    assert.ok(Math.min(...lows) > 0, 'the token ran out on the page')
    assert.ok(Math.max(...lows) <= ACCESS_LIFE, `${Math.max(...lows)} seconds left`)
    await shot(tab, 'busy')
  }, 60)

  await check('two tabs stay side by side', async () => {
    const other = await newTab(`${app}/`)
    const both = [watch(tab), watch(other)]
    await seconds(2.5 * ACCESS_LIFE)
    for (const seen of both) undisturbed(seen, 10)
    await shot(other, 'second-tab')
    await other.close()
  }, 60)

  await check('tabs that close at any moment do not matter to the one that stays', async () => {
    const seen = watch(tab)
    for (const end = Date.now() + 2 * ACCESS_LIFE * 1000; Date.now() < end;) await fleetingTab(500)
    undisturbed(seen, 8)
  }, 60)
  await check('nor when there is no other: what a closed tab had renewed is not lost', async () => {
    await park()
    for (const end = Date.now() + 3 * ACCESS_LIFE * 1000; Date.now() < end; await seconds(1.5 + Math.random())) await fleetingTab(40)
    await tab.goto(`${app}/`)
    assert.equal(tab.url(), `${app}/`)
    await shot(tab, 'after-closed-tabs')
  }, 60)

  const page = `${app}/admin/?tab=2`
  await check('away for longer than the refresh token lives: the login page again', async () => {
    await alone(tab)
    const cookies = undying(await ours())
    await park()
    await seconds(REFRESH_LIFE + 2)
    // The browser has forgotten them by itself; with them the gateway has to ask, and to clear.
    await context.addCookies(cookies)
    const answer = await tab.goto(page)
    assert.equal(tab.url(), loginFor(page))
    const cleared = (await (await answer.request().redirectedFrom().response()).headersArray()).filter(({ name }) => name.toLowerCase() === 'set-cookie').map(({ value }) => value)
    for (const name of COOKIES) assert.ok(cleared.some(line => line.startsWith(`${name}=;`) && /max-age=0/i.test(line)), `${name} is not cleared: ${cleared.map(line => line.replace(/=[^;]{20,};/, '=…;'))}`)
    assert.deepEqual(await ours(), [])
    await shot(tab, 'session-over')
  }, 60)
  await check('signing in again leads back there', async () => {
    await signIn(tab)
    assert.equal(tab.url(), page)
  })

  await check('a script without a session gets 401, a problem and the login address of its page', async () => {
    const idle = `${app}/?idle`
    await tab.goto(idle)
    await context.clearCookies()
    const answer = await tab.evaluate(async () => {
      const got = await fetch('/status')
      return { status: got.status, redirected: got.redirected, type: got.headers.get('content-type'), problem: await got.json() }
    })
    assert.equal(answer.status, 401)
    assert.equal(answer.redirected, false)
    assert.match(answer.type, /^application\/problem\+json/)
    assert.equal(answer.problem.status, 401)
    assert.equal(answer.problem.login, loginFor(idle))
  })
  await check('a page whose session ended says so and links to the login page', async () => {
    await tab.click('#active')
    const link = tab.locator('#notice a')
    await link.waitFor()
    assert.equal(await link.getAttribute('href'), loginFor(`${app}/?idle`))
    await shot(tab, 'ended-page')
  })
  await check('a user without the role gets 403, and stays signed in', async () => {
    await tab.goto(`${app}/`)
    await signIn(tab, 'demo-ravi', 'ravi')
    assert.equal((await tab.goto(`${app}/admin/`)).status(), 403)
    await shot(tab, 'forbidden')
    assert.equal((await tab.goto(`${app}/`)).status(), 200)
    assert.equal(await tab.textContent('.who small'), 'clerk')
  })

  // Each time another page: who is sent to the login from one page again and again is told that there is a loop.
  const toLogin = async path => {
    await tab.goto(app + path)
    assert.equal(tab.url(), loginFor(app + path))
  }
  let old = []
  const stillLive = () => {
    const { exp } = JSON.parse(Buffer.from(old.find(({ name }) => name === 'access_token').value.split('.')[1], 'base64url'))
    assert.ok(exp > Date.now() / 1000, 'the access token has expired, so this shows nothing')
  }
  await check('signing out ends the session here', async () => {
    await tab.goto(`${app}/`)
    old = undying(await ours())
    assert.equal(old.length, COOKIES.length)
    await Promise.all([tab.waitForEvent('framenavigated'), tab.click('form[action="/.doorkeep/sign-out"] button')])
    await tab.waitForLoadState('load')
    await shot(tab, 'signed-out')
    assert.deepEqual(await ours(), [])
    await toLogin('/?signed-out')
  })
  await check('the old cookies do not get in again, although their access token has time left', async () => {
    await context.addCookies(old)
    await toLogin('/?old-cookies')
    await shot(tab, 'old-cookies')
    stillLive()
  })
  for (const left of [['access_token'], ['access_token', 'session_id'], ['access_token', 'refresh_token']]) {
    await check(`nor does ${left.join(' with ')} alone`, async () => {
      const cookies = old.filter(({ name }) => left.includes(name)).map(({ name, value }) => `${name}=${value}`).join('; ')
      const answer = await send({ port, path: '/status', headers: [['Host', `localhost:${port}`], ['Cookie', cookies]] })
      assert.equal(answer.status, 401, answer.text)
      stillLive()
    })
  }
  await check('nor do they once that token has expired', async () => {
    await seconds(ACCESS_LIFE)
    await context.addCookies(old)
    await toLogin('/?expired-cookies')
  })
  await check('signing in after that is a new session', async () => {
    await signIn(tab)
    assert.equal(tab.url(), `${app}/?expired-cookies`)
    await shot(tab, 'signed-in-again')
  })
  await check('in all this no refresh token was presented twice', () => {
    const told = readFileSync(log, 'utf8')
    assert.match(told, /renewed/)
    assert.doesNotMatch(told, /reuse!/)
  })
  await check('the terminal shows no token', () => {
    assert.doesNotMatch(readFileSync(log, 'utf8'), /eyJ|access_token=|refresh_token=/)
  })
}

/** Opens a tab on the app and closes it within `most` milliseconds, loaded or not. */
async function fleetingTab (most) {
  const page = await newTab()
  const going = page.goto(`${app}/`).catch(() => {})
  await sleep(Math.random() * most)
  await page.close()
  await going
}

try {
  await startDemo()
  ;({ browser, context } = await startBrowser())
  await main()
} catch (fault) {
  await check('the suite runs to its end', () => { throw fault })
} finally {
  await browser?.close()
  await stopAll()
}
