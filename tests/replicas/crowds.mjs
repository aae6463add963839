// Many requests at once; the last request before an idle time; clocks that differ; signing out and in meanwhile.
import { setTimeout as sleep } from 'node:timers/promises'
import { demand, scenario } from './scenarios.mjs'

const all = (count, ask) => Promise.all(Array.from({ length: count }, (_, n) => ask(n)))
const tokens = answer => answer.cookies.filter(line => !line.startsWith('doorkeep')).map(line => line.split(';')[0]).join()
const served = answers => answers.filter(answer => answer.status === 200).length

for (const [where, replica] of [['one replica', () => 0], ['three replicas', n => n]]) {
  scenario(`200 requests at once on ${where}`, async scene => {
    const fleet = await scene.fleet()
    const browser = fleet.browser()
    const answers = await all(200, n => browser.copy().ask(replica(n)))
    demand(served(answers) === 200, `${served(answers)} of 200 served`)
    demand(fleet.backend.renewals === 1, `${fleet.backend.renewals} renewals`)
    demand(new Set(answers.map(tokens)).size === 1, 'not all have the same pair')
  })

  scenario(`200 requests at once on ${where}, the backend takes 5 s, they wait for it`, async scene => {
    const fleet = await scene.fleet({ timeout: 9 })
    fleet.backend.delay = () => 5000
    const browser = fleet.browser()
    const answers = await all(200, n => browser.copy().ask(replica(n)))
    demand(served(answers) === 200, `${served(answers)} of 200 served`)
    demand(fleet.backend.renewals === 1, `${fleet.backend.renewals} renewals`)
  })

  scenario(`200 requests at once on ${where}, the backend takes 5 s, they do not wait for it`, async scene => {
    const fleet = await scene.fleet({ timeout: 2 })
    fleet.backend.delay = () => 5000
    const browser = fleet.browser()
    const answers = await all(200, n => browser.copy().ask(replica(n)))
    demand(answers.every(answer => answer.status === 503 && answer.retry !== undefined && answer.cookies.length === 0), 'not all 503 with Retry-After')
    const again = await all(200, n => browser.copy().insist(replica(n)))
    demand(served(again) === 200, `${served(again)} of 200 served`)
    demand(fleet.backend.renewals === 1, `${fleet.backend.renewals} renewals`)
  })
}

scenario('an early renewal whose cookies missed the last answer before an idle time', async scene => {
  const fleet = await scene.fleet({ renew: 'attach = "0s"\nahead = "50%"', backend: { life: 8 } })
  fleet.backend.delay = () => 300
  const browsers = Array.from({ length: 50 }, () => fleet.browser(3))
  const answers = await all(50, n => browsers[n].ask(n))
  demand(answers.every(answer => answer.status === 200 && answer.cookies.every(line => !line.startsWith('access_token'))), 'an answer carried the new pair')
  await sleep(4300)
  demand(fleet.backend.renewals === 50, `${fleet.backend.renewals} early renewals`)
  const later = await all(50, n => browsers[n].ask(n + 1))
  demand(served(later) === 50, `${served(later)} of 50 served`)
  demand(fleet.backend.renewals === 50, `${fleet.backend.renewals} renewals`)
})

scenario('clocks 30 s apart, with a leeway that allows it', { seconds: 60 }, async scene => {
  const fleet = await scene.fleet({ clocks: ['-15s', '+0s', '+15s'], token: 'leeway = "35s"', renew: 'ahead = "50%"', backend: { life: 100 } })
  // Some are over for all three, some for the fast one only, some are due for the slow one only.
  const ends = [-60, -45, -30, 30, 50, 60]
  const browsers = Array.from({ length: 60 }, (_, n) => fleet.browser(ends[n % ends.length]))
  for (let turn = 0; turn < 6; turn++) {
    const answers = await all(180, n => browsers[n % 60].ask(n + turn))
    demand(served(answers) === 180, `${served(answers)} of 180 served`)
    await sleep(700)
  }
})

scenario('keys change, and what one replica can fetch is one rotation behind for 7 s', { seconds: 90 }, async scene => {
  const fleet = await scene.fleet({ backend: { publishes: true } })
  const live = Array.from({ length: 9 }, () => fleet.browser(200))
  const over = Array.from({ length: 30 }, () => fleet.browser())
  // All replicas have the keys, and have seen the live sessions.
  demand(served(await all(27, n => live[n % 9].ask(Math.floor(n / 9)))) === 27, 'not all live sessions served')
  // What is signed from now on verifies at no replica with the keys that it has, and at the first one for a while with none
  // that it can get.
  fleet.backend.rotateKeys(0)
  const before = fleet.backend.fetches
  const published = sleep(7000).then(() => { fleet.backend.behind.clear() })
  const tabs = over.flatMap((browser, n) => [0, 1, 2].map(tab => browser.copy().insist(n + tab, 40)))
  const fresh = Array.from({ length: 9 }, () => fleet.browser(200))
  // A page view: of such a session nothing tells yet whose it is.
  const early = await all(9, n => fresh[n].ask(0, { mode: 'navigate' }))
  demand(early.every(answer => [200, 503].includes(answer.status) && answer.cookies.every(line => !/max-age=0(;|$)/i.test(line))), 'somebody was signed out for want of a key')
  scene.say(`${early.filter(answer => answer.status === 503).length} of 9 new sessions asked to wait at the replica that is behind`)
  demand(served(await all(18, n => live[n % 9].ask(Math.floor(n / 9)))) === 18, 'a session of the older key was not served')
  demand(served(await Promise.all(tabs)) === 90, 'not all tabs served')
  await published
  const later = await all(39, n => [...over, ...fresh][n].copy().insist(0, 30))
  demand(served(later) === 39, `${served(later)} of 39 served at the replica that was behind`)
  scene.say(`${fleet.backend.fetches - before} fetches of keys`)
  // Once each: whoever takes over a result fetches its key at once, so nothing is renewed again for want of it.
  demand(fleet.backend.renewals <= 39, `${fleet.backend.renewals} renewals`)
})

scenario('signing out while renewals and answers are under way on the other replicas', async scene => {
  const fleet = await scene.fleet()
  fleet.app.delay = () => 200
  fleet.backend.delay = () => 500
  const browsers = Array.from({ length: 30 }, () => fleet.browser())
  const outcome = await all(30, async n => {
    const [browser, tab] = [browsers[n], browsers[n].copy()]
    browser.signedOut = tab.signedOut = true
    const early = [tab.ask(n), tab.ask(n + 1)]
    await sleep(100 + n * 20)
    const out = await browser.ask(n + 2, { method: 'POST', path: '/.doorkeep/sign-out' })
    await Promise.all(early)
    return [out.status, tab]
  })
  const gone = outcome.filter(([status]) => status === 204).length
  demand(gone === 30, `${gone} of 30 signed out`)
  await sleep(1200)
  const after = await all(90, n => outcome[n % 30][1].ask(Math.floor(n / 30)))
  const alive = after.filter(answer => answer.status === 200).length
  demand(alive === 0, `${alive} requests served after signing out`)
  const left = [...fleet.backend.sessions.values()].filter(session => session.status === 'active').length
  scene.say(`${left} sessions left alive at the backend`)
  demand(left === 0, `${left} sessions left alive at the backend`)
  for (const browser of browsers) browser.session.status = 'signed out'
  fleet.browsers.length = 0
})

scenario("a second user signs in while answers to the first one's tabs are under way", async scene => {
  const fleet = await scene.fleet()
  fleet.app.delay = () => 700
  fleet.backend.delay = () => 200
  const browsers = Array.from({ length: 20 }, () => fleet.browser(-5, 'ravi'))
  await all(20, async n => {
    const browser = browsers[n]
    // A tab that is gone when its answer comes, as after the page that signs out; the answer's cookies go nowhere.
    const old = browser.copy().ask(n)
    await sleep(100)
    browser.signedOut = true
    await browser.ask(n + 1, { method: 'POST', path: '/.doorkeep/sign-out' })
    const { session, pair } = fleet.backend.signIn('meera', { endsIn: -5 })
    const next = Object.assign(browser.copy(), { session, signedOut: false, fate: {} })
    next.jar = new Map([...browser.jar].filter(([name]) => name.startsWith('doorkeep')))
    next.jar.set('access_token', pair.token).set('refresh_token', pair.refresh.token).set('session_id', pair.id)
    fleet.browsers[fleet.browsers.indexOf(browser)] = next
    const answers = await Promise.all([next.ask(n + 2), next.ask(n), old])
    demand(answers[0].text === 'meera' && answers[1].text === 'meera', `the second user was served as ${answers[0].status} ${answers[0].text}`)
  })
})
