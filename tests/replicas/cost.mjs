// What renewals cost a Redis: commands, bytes, memory, processor time. The figures of deploy/scale.md come from here.
import { setTimeout as sleep } from 'node:timers/promises'
import { demand, scenario } from './scenarios.mjs'

const SESSIONS = 1000

async function look (redis) {
  const text = await redis.say('INFO', 'everything')
  const figure = name => Number(new RegExp(`^${name}:([\\d.]+)`, 'm').exec(text)[1])
  const calls = Object.fromEntries([...text.matchAll(/^cmdstat_([^:]+):calls=(\d+)/gm)].map(([, name, count]) => [name, Number(count)]))
  return {
    calls,
    heard: figure('total_net_input_bytes'),
    said: figure('total_net_output_bytes'),
    memory: figure('used_memory'),
    busy: (figure('used_cpu_user_main_thread') + figure('used_cpu_sys_main_thread')) * 1e6
  }
}

/** What came to pass between two looks, for each of `count`. */
function each (from, to, count, idle = { heard: 0, said: 0, busy: 0 }) {
  const own = ['info', 'ping', 'command', 'command|docs', 'client|setinfo']
  const of = name => (to.calls[name] ?? 0) - (from.calls[name] ?? 0)
  const calls = Object.keys(to.calls).filter(name => !own.includes(name) && of(name) / count >= 0.05)
  return {
    calls: calls.map(name => `${(of(name) / count).toFixed(1)} ${name}`).join(' '),
    heard: Math.round((to.heard - from.heard - idle.heard) / count),
    said: Math.round((to.said - from.said - idle.said) / count),
    memory: Math.round((to.memory - from.memory) / count),
    busy: Math.round((to.busy - from.busy - idle.busy) / count)
  }
}

const told = (what, { calls, heard, said, memory, busy }) => `${what}: ${heard} B in, ${said} B out, ${memory} B kept, ${busy} µs (${calls})`

scenario('what renewals cost a Redis', { seconds: 120 }, async scene => {
  const fleet = await scene.fleet({ backend: { life: 300 } })
  const browsers = Array.from({ length: SESSIONS }, () => fleet.browser())
  // Once, so that scripts, buffers and tables are there.
  await Promise.all(Array.from({ length: 90 }, (_, n) => fleet.browser().ask(n)))
  await sleep(1000)
  const idle = await look(fleet.redis)
  await sleep(5000)
  const before = await look(fleet.redis)
  const rest = each(idle, before, 3 * 5)
  // As many at a time as a small machine answers at once.
  const inTurn = async ask => {
    const waiting = browsers.map((browser, n) => [browser, n])
    await Promise.all(Array.from({ length: 30 }, async () => { for (let next; (next = waiting.shift());) await ask(...next) }))
    await sleep(500)
  }
  await inTurn((browser, n) => browser.ask(n))
  const renewed = await look(fleet.redis)
  await inTurn((browser, n) => browser.ask(n + 1))
  const confirmed = await look(fleet.redis)
  await inTurn((browser, n) => browser.ask(n + 2))
  const served = await look(fleet.redis)
  const renewal = each(before, renewed, SESSIONS)
  scene.say(told('a second of an idle replica', rest))
  scene.say(told('a renewal', renewal))
  scene.say(told('its confirmation', each(renewed, confirmed, SESSIONS)))
  scene.say(told('a request that is not renewed', each(confirmed, served, SESSIONS)))
  demand(fleet.backend.renewals === SESSIONS + 90, `${fleet.backend.renewals} renewals`)
  demand(renewal.memory < 4000 && renewal.heard < 8000, 'a renewal costs more than it should')
})
