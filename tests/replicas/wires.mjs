// Browsers with tabs that close, wires that are cut, and a session backend on bad days.
import { setTimeout as sleep } from 'node:timers/promises'
import { Wire } from './proxy.mjs'
import { demand, scenario } from './scenarios.mjs'

const chance = share => Math.random() < share
const upTo = number => Math.random() * number

/** Tabs of one browser, at work for so long. `ports`: where the replicas are reached, if not directly. */
function atWork (browser, milliseconds, { tabs = 3, closes = 0.3, pause = 400, ports } = {}) {
  const end = performance.now() + milliseconds
  return Promise.all(Array.from({ length: tabs }, async () => {
    while (performance.now() < end) {
      await sleep(upTo(pause))
      const n = Math.floor(upTo(3))
      await browser.ask(n, { leave: chance(closes) ? upTo(300) : undefined, port: ports?.[n] })
    }
  }))
}

for (const [name, renew] of [['renewed early', 'ahead = "50%"'], ['renewed when they are over', 'ahead = "0s"'], ['renewed early, never attached', 'ahead = "50%"\nattach = "0s"']]) {
  scenario(`20 browsers, tokens of 3 s ${name}, tabs that close at random`, async scene => {
    const fleet = await scene.fleet({ backend: { life: 3 }, renew })
    fleet.app.delay = () => upTo(100)
    fleet.backend.delay = () => upTo(200)
    const browsers = Array.from({ length: 20 }, () => fleet.browser(1 + upTo(3)))
    await Promise.all(browsers.map(browser => atWork(browser, 20_000)))
    demand(fleet.backend.renewals > 80, `only ${fleet.backend.renewals} renewals`)
  })
}

scenario('20 browsers, answers cut on their way to them after a random number of bytes', async scene => {
  const fleet = await scene.fleet({ backend: { life: 3 }, renew: 'ahead = "30%"' })
  fleet.backend.delay = () => upTo(200)
  const wires = fleet.gateways.map(gateway => new Wire(() => gateway.port))
  for (const wire of wires) wire.cutAfter = () => ({ request: chance(0.1) ? upTo(500) : Infinity, answer: chance(0.4) ? upTo(1200) : Infinity })
  const ports = await Promise.all(wires.map(wire => wire.listen()))
  const browsers = Array.from({ length: 20 }, () => fleet.browser(1 + upTo(3)))
  await Promise.all(browsers.map(browser => atWork(browser, 20_000, { ports, closes: 0.1 })))
  for (const wire of wires) wire.close()
  demand(fleet.cut > 100, `only ${fleet.cut} cut`)
})

scenario('renewals cut on their way to the backend, before it has heard them', { seconds: 120 }, async scene => {
  const fleet = await scene.fleet()
  for (const wire of fleet.backendWires) wire.cutAfter = () => ({ request: chance(0.3) ? 1 + upTo(150) : Infinity, answer: Infinity })
  const browsers = Array.from({ length: 30 }, () => fleet.browser())
  // The gateway cannot know that nothing was heard: it presents again, at most once in half a minute after the first time.
  await Promise.all(browsers.map((browser, n) => browser.insist(n, 100)))
})

scenario('answers of the backend cut on their way, where it repeats its answer to a token that it has just spent', { seconds: 120 }, async scene => {
  const fleet = await scene.fleet({ backend: { grace: 60_000 } })
  // Twice each, at most: for the fourth time a token is presented after a minute, when this backend no longer repeats anything.
  const end = performance.now() + 20_000
  for (const wire of fleet.backendWires) {
    wire.cutAfter = () => ({ request: Infinity, answer: performance.now() < end && chance(0.5) ? 1 + upTo(700) : Infinity })
  }
  const browsers = Array.from({ length: 30 }, () => fleet.browser())
  await Promise.all(browsers.map(async (browser, n) => {
    await browser.insist(n, 100)
    demand(fleet.backend.reuses === 0, 'a session was ended')
  }))
})

scenario('answers of the backend cut after it has spent the token', {
  allowed: 5, why: 'the new pair is nowhere, and a backend that keeps to the letter ends the session', seconds: 60
}, async scene => {
  const fleet = await scene.fleet()
  const browsers = Array.from({ length: 20 }, () => fleet.browser())
  let cut = 0
  fleet.backend.always('rotated', () => (++cut <= 5 ? 'cut' : undefined))
  await Promise.all(browsers.map((browser, n) => browser.copy().insist(n)))
  demand(fleet.backend.reuses <= 5, `${fleet.backend.reuses} reuses for 5 cut answers`)
})

const BAD_DAYS = {
  'says 500': () => ({ status: 500, body: { isSuccess: false, code: 'INTERNAL' } }),
  'says 503 with a page': () => ({ status: 503, body: '<html>down</html>' }),
  'says 429': () => ({ status: 429, body: '{}' }),
  'closes the connection': () => 'cut',
  'answers garbage': () => ({ status: 200, body: '\u0000{"isSuc' }),
  'says 502 as a proxy does': () => ({ status: 502, body: 'bad gateway' })
}
for (const [what, day] of Object.entries(BAD_DAYS)) {
  scenario(`for 3 s the backend ${what} before it spends anything`, { seconds: 120 }, async scene => {
    const fleet = await scene.fleet()
    let bad = true
    setTimeout(() => { bad = false }, 3000)
    fleet.backend.always('heard', () => (bad ? day() : undefined))
    const browsers = Array.from({ length: 20 }, () => fleet.browser())
    const tabs = browsers.flatMap((browser, n) => [0, 1, 2].map(tab => browser.copy().insist(n + tab, 100)))
    await Promise.all(tabs)
  })
}

scenario('the backend flaps: half of its answers are faults', { seconds: 120 }, async scene => {
  const fleet = await scene.fleet()
  const faults = [BAD_DAYS['says 500'], BAD_DAYS['says 503 with a page'], BAD_DAYS['says 429']]
  fleet.backend.always('heard', () => (chance(0.5) ? faults[Math.floor(upTo(3))]() : undefined))
  fleet.backend.delay = () => upTo(500)
  const browsers = Array.from({ length: 40 }, () => fleet.browser())
  await Promise.all(browsers.flatMap((browser, n) => [0, 1, 2].map(tab => browser.copy().insist(n + tab, 100))))
})

scenario('the backend cannot be reached for 4 s', { seconds: 60 }, async scene => {
  const fleet = await scene.fleet()
  for (const wire of fleet.backendWires) wire.server.close()
  const ports = fleet.backendWires.map(wire => wire.port)
  const browsers = Array.from({ length: 20 }, () => fleet.browser())
  const tabs = browsers.flatMap((browser, n) => [0, 1, 2].map(tab => browser.copy().insist(n + tab, 40)))
  await sleep(4000)
  fleet.backendWires.forEach((wire, n) => wire.server.listen(ports[n], '127.0.0.1'))
  await Promise.all(tabs)
  demand(fleet.backend.renewals === 20, `${fleet.backend.renewals} renewals`)
})

scenario('the backend answers after our time-out, within give_up', { seconds: 60 }, async scene => {
  const fleet = await scene.fleet({ timeout: 2 })
  fleet.backend.delay = () => 3000 + upTo(3000)
  const browsers = Array.from({ length: 20 }, () => fleet.browser())
  await Promise.all(browsers.flatMap((browser, n) => [0, 1, 2].map(tab => browser.copy().insist(n + tab, 40))))
  demand(fleet.backend.renewals === 20, `${fleet.backend.renewals} renewals`)
})
