// Redis and replicas killed and paused at every step of a flight.
import { setTimeout as sleep } from 'node:timers/promises'
import { until } from '../lib/report.mjs'
import { STEPS } from './fleet.mjs'
import { demand, scenario } from './scenarios.mjs'

const OWNER = 'a replica that dies between the first byte and the stored result takes the answer with it'
const CLAIM = 'an owner that pauses for longer than its claim is taken for dead'
const AFTER_HEARD = ['as the backend hears', 'as the backend answers', 'before the result is stored']

/** Twelve tabs of one browser whose token is over come to all replicas; at a step of the flight, something happens. */
async function interrupted (scene, plan, step, act, seconds = 25) {
  const fleet = await scene.fleet(plan)
  let happened = 0
  fleet.once(step, async replica => { happened++; await act(fleet, replica) })
  const browser = fleet.browser()
  const answers = Promise.allSettled(Array.from({ length: 12 }, (_, n) => browser.copy().insist(n, seconds)))
  const failed = (await answers).filter(answer => answer.status === 'rejected')
  demand(happened === 1, `it happened ${happened} times`)
  while (fleet.redis.paused || fleet.gateways.some(gateway => gateway.paused)) await sleep(50)
  await sleep(300)
  await fleet.shareUp()
  // A tab that slept all the while comes to each replica with the old cookies.
  for (const gateway of fleet.gateways.filter(gateway => gateway.up)) await browser.copy().insist(gateway.number).catch(() => {})
  return { failed }
}

/** What a loss came from, where one is allowed: it has to be this. */
async function shown (scene, how) {
  const [fleet] = scene.fleets
  await until('the token is presented again', () => fleet.backend.again.length > 0, 30, 50)
  scene.say(`tried: ${how}`)
  demand(fleet.backend.reuses === 1, `${fleet.backend.reuses} reuses`)
}

for (const step of Object.keys(STEPS)) {
  const heard = AFTER_HEARD.includes(step)
  scenario(`a replica is killed ${step}`, { allowed: heard ? 1 : 0, why: OWNER, seconds: 70 }, async scene => {
    const { failed } = await interrupted(scene, {}, step, (fleet, replica) => fleet.gateways[replica].kill(), 40)
    demand(heard || failed.length === 0, `${failed.length} tabs without an answer`)
    if (heard) await shown(scene, 'a claim whose owner is gone ends by itself, and its token is presented once more')
  })

  for (const seconds of [1, 5, 20]) {
    const beyond = seconds > 15 && heard
    scenario(`a replica is paused for ${seconds} s ${step}`, { allowed: beyond ? 1 : 0, why: CLAIM, seconds: 90 }, async scene => {
      const { failed } = await interrupted(scene, {}, step, (fleet, replica) => fleet.gateways[replica].pause(seconds * 1000), seconds + 30)
      demand(beyond || failed.length === 0, `${failed.length} tabs without an answer`)
      if (beyond) await shown(scene, 'its claim ends meanwhile, and its token is presented once more')
    })

    scenario(`Redis pauses for ${seconds} s ${step}`, { seconds: 90 }, async scene => {
      const { failed } = await interrupted(scene, {}, step, fleet => fleet.redis.pause(seconds * 1000), seconds + 30)
      demand(failed.length === 0, `${failed.length} tabs without an answer`)
    })
  }

  scenario(`Redis is killed and comes back empty ${step}`, { seconds: 70 }, async scene => {
    const { failed } = await interrupted(scene, {}, step, fleet => fleet.redis.restart(200))
    demand(failed.length === 0, `${failed.length} tabs without an answer`)
  })

  scenario(`the connections to Redis are cut ${step}`, { seconds: 60 }, async scene => {
    const { failed } = await interrupted(scene, {}, step, fleet => { for (const wire of fleet.wires) wire.cutAll() })
    demand(failed.length === 0, `${failed.length} tabs without an answer`)
  })

  scenario(`Redis cannot be reached from the replica that flies for 5 s, from ${step}`, { seconds: 70 }, async scene => {
    const { failed } = await interrupted(scene, {}, step, (fleet, replica) => {
      const wire = fleet.wires[replica]
      wire.closed = true
      wire.cutAll()
      setTimeout(() => { wire.closed = false }, 5000)
    })
    demand(failed.length === 0, `${failed.length} tabs without an answer`)
  })
}

scenario('each answer of Redis takes 300 ms', { seconds: 90 }, async scene => {
  const fleet = await scene.fleet({ timeout: 8 })
  for (const wire of fleet.wires) wire.delay = 300
  const browsers = Array.from({ length: 60 }, () => fleet.browser())
  const tabs = browsers.flatMap((browser, n) => Array.from({ length: 5 }, (_, tab) => browser.copy().insist(n + tab, 40)))
  await Promise.all(tabs)
  demand(fleet.backend.renewals === 60, `${fleet.backend.renewals} renewals`)
})

scenario('connections to Redis are cut at random', { seconds: 90 }, async scene => {
  const fleet = await scene.fleet()
  fleet.backend.delay = () => Math.random() * 200
  let over = false
  const cutting = (async () => {
    while (!over) {
      await sleep(30 + Math.random() * 300)
      const wire = fleet.wires[Math.floor(Math.random() * 3)]
      wire.cutAll()
    }
  })()
  const browsers = Array.from({ length: 60 }, () => fleet.browser())
  await Promise.all(browsers.map(async (browser, n) => {
    await sleep(n * 100)
    await Promise.all(Array.from({ length: 4 }, (_, tab) => browser.copy().insist(n + tab, 60)))
  }))
  over = true
  await cutting
})

scenario('Redis comes back empty again and again', { seconds: 90 }, async scene => {
  const fleet = await scene.fleet()
  fleet.backend.delay = () => 300 + Math.random() * 1500
  let over = false
  const killing = (async () => {
    while (!over) { await sleep(2500 + Math.random() * 2500); if (!over) await fleet.redis.restart(Math.random() * 300) }
  })()
  const browsers = Array.from({ length: 60 }, () => fleet.browser())
  await Promise.all(browsers.map(async (browser, n) => {
    await sleep(n * 300)
    await Promise.all(Array.from({ length: 4 }, (_, tab) => browser.copy().insist(n + tab, 60)))
  }))
  over = true
  await killing
})
