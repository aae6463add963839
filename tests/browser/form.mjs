// A real browser goes through `doorkeep demo --form`: it signs in at the gateway's own page, with scripts off, on a telephone's
// screen, is renewed, signs out, and signs in as somebody else. Tokens live for seconds here, so the waits are real ones.
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
const COOKIES = ['access_token', 'refresh_token', 'session_id']

const folder = emptyFolder(output, 'browser-form')
const port = await freePorts(4)
const app = `http://localhost:${port}`
const log = join(folder, 'demo.log')

/** Where a browser without a session is sent that asked for `page`. */
const loginFor = page => `${app}/.doorkeep/sign-in?redirect=${encodeURIComponent(page)}`

let browser, context

async function startDemo () {
  const child = start(doorkeep, ['demo', '--form', '--port', `${port}`, '--access-life', `${ACCESS_LIFE}s`, '--refresh-life', '40s'], log)
  await until('the demo answers', async () => alive(child) && (await send({ port, headers: [['Host', `localhost:${port}`]] })).status < 500)
}

let shots = 0
const shot = (page, name) => page.screenshot({ path: join(folder, `${String(++shots).padStart(2, '0')}-${name}.png`) })
const ours = async () => (await context.cookies(app)).filter(({ name }) => COOKIES.includes(name))
const told = () => readFileSync(log, 'utf8')

async function sendForm (page) {
  await Promise.all([page.waitForEvent('framenavigated'), page.keyboard.press('Enter')])
  await page.waitForLoadState('load')
}

/** Signs in by keyboard alone, from where the page has put the focus. */
async function signIn (page, name, password) {
  await page.keyboard.type(name)
  await page.keyboard.press('Tab')
  await page.keyboard.type(password)
  await sendForm(page)
}

async function main () {
  const tab = await context.newPage()
  tab.setDefaultTimeout(10_000)
  const faults = []
  tab.on('console', message => { if (/Content Security Policy/.test(message.text())) faults.push(message.text()) })
  const deep = `${app}/admin/?tab=1%202`
  const focused = () => tab.locator(':focus').getAttribute('id')

  await check('without a session a page leads to the form of its own site', async () => {
    const answer = await tab.goto(deep)
    assert.equal(tab.url(), loginFor(deep))
    assert.equal((await answer.request().redirectedFrom().response()).status(), 302)
    assert.match(await tab.title(), /^Sign in/)
    assert.equal(await focused(), 'user')
    await shot(tab, 'form')
  })
  await check('both inputs have a name that is read out, and the one button', async () => {
    for (const label of ['User name', 'Password']) assert.equal(await tab.getByLabel(label, { exact: true }).count(), 1, label)
    assert.equal(await tab.getByRole('button', { name: 'Sign in' }).count(), 1)
    assert.equal(await tab.getByRole('main').count(), 1)
    assert.equal(await tab.getByRole('heading', { level: 1 }).count(), 1)
  })
  await check('the page fits a telephone, and its style is applied', async () => {
    // Scripts of the page are off; what is measured here is asked for through the browser itself.
    const card = await tab.getByRole('main').boundingBox()
    assert.ok(card.x >= 0 && card.x + card.width <= 320, JSON.stringify(card))
    for (const box of [await tab.locator('#user').boundingBox(), await tab.getByRole('button').boundingBox()]) assert.ok(box.height >= 44, JSON.stringify(box))
  })
  await check('a wrong password is told, the name is kept, the password is next', async () => {
    await signIn(tab, 'asha', 'not it')
    assert.match(await tab.getByRole('alert').textContent(), /not right/)
    assert.equal(await tab.inputValue('#user'), 'asha')
    assert.equal(await tab.inputValue('#password'), '')
    assert.equal(await focused(), 'password')
    assert.equal(await tab.locator('#password').getAttribute('aria-describedby'), 'alert')
    assert.deepEqual(await ours(), [])
    await shot(tab, 'wrong-password')
  })
  await check('signing in leads back to exactly the page asked for', async () => {
    await tab.keyboard.type('demo-asha')
    await sendForm(tab)
    assert.equal(tab.url(), deep)
    assert.equal(await tab.textContent('h1'), 'Admin office')
    const cookies = await ours()
    assert.deepEqual(cookies.map(({ name }) => name).sort(), [...COOKIES].sort())
    for (const { name, httpOnly, sameSite } of cookies) assert.ok(httpOnly && sameSite === 'Lax', name)
    await shot(tab, 'signed-in')
  })
  await check('who goes back to the form is signed in already', async () => {
    await tab.goto(loginFor(`${app}/`))
    assert.equal(tab.url(), `${app}/`)
  })
  await check('the session is renewed while it is used', async () => {
    const before = new Map((await ours()).map(({ name, value }) => [name, value]))
    for (let turn = 0; turn < 5; turn++) {
      await sleep(ACCESS_LIFE * 500)
      assert.equal((await tab.goto(deep)).status(), 200)
      assert.equal(tab.url(), deep)
    }
    const after = new Map((await ours()).map(({ name, value }) => [name, value]))
    assert.notEqual(after.get('refresh_token'), before.get('refresh_token'))
    assert.equal(after.get('session_id'), before.get('session_id'))
    assert.match(told(), /renewed/)
  }, 60)
  await check('signing out ends at the form again', async () => {
    await tab.goto(`${app}/`)
    await Promise.all([tab.waitForEvent('framenavigated'), tab.click('form[action="/.doorkeep/sign-out"] button')])
    await tab.waitForLoadState('load')
    assert.equal(tab.url(), loginFor(`${app}/`))
    assert.deepEqual(await ours(), [])
    await shot(tab, 'signed-out')
  })
  await check('somebody else signs in there', async () => {
    await signIn(tab, 'ravi', 'demo-ravi')
    assert.equal(tab.url(), `${app}/`)
    assert.equal((await tab.goto(`${app}/admin/`)).status(), 403)
  })
  await check('another origin\'s page signs nobody in', async () => {
    await context.clearCookies()
    // The same machine by another name: to the browser another site. A page of the app's server stands in for any page.
    const evil = await context.newPage()
    await evil.route('**/evil', route => route.fulfill({
      contentType: 'text/html',
      body: `<form method="post" action="${app}/.doorkeep/sign-in"><input name="user" value="ravi"><input name="password" value="demo-ravi"><input name="form" value="x"><button>Win</button></form>`
    }))
    await evil.goto(`http://127.0.0.1:${port}/evil`)
    const [answer] = await Promise.all([evil.waitForResponse(answer => answer.request().method() === 'POST'), evil.click('button')])
    assert.equal(answer.status(), 403)
    assert.deepEqual(await ours(), [])
    await evil.close()
  })
  await check('the browser had nothing against any of it', () => {
    assert.deepEqual(faults, [])
    assert.doesNotMatch(told(), /reuse!/)
    assert.doesNotMatch(told(), /eyJ|access_token=|refresh_token=/)
  })
}

try {
  await startDemo()
  ;({ browser, context } = await startBrowser({ javaScriptEnabled: false, viewport: { width: 320, height: 640 }, colorScheme: 'dark' }))
  await main()
} catch (fault) {
  await check('the suite runs to its end', () => { throw fault })
} finally {
  await browser?.close()
  await stopAll()
}
