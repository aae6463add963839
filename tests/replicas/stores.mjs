// Sentinel and Cluster with fail-overs in the middle of flights; a Redis with TLS and an ACL user.
import { execFileSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { freePorts } from '../lib/children.mjs'
import { until } from '../lib/report.mjs'
import { cluster, sentinel, Server } from './redis.mjs'
import { demand, scenario } from './scenarios.mjs'

const urls = ports => JSON.stringify(ports.map(port => `redis://127.0.0.1:${port}`))
/** What the share asks of an ACL user, and no more. */
const RIGHTS = '+evalsha +script|load +get +getdel +mget +set +del +pexpire +pttl +time +xadd +xread +wait +ping +hello +auth +info'
const LOST = 'a claim that no replica of the store had when its primary died'

/** One new browser each 100 ms with four tabs, as long as `happening` takes; all get their answer. */
async function traffic (fleet, happening, seconds = 40) {
  let over = false
  fleet.backend.delay = () => Math.random() * 1500
  const tabs = []
  const coming = (async () => {
    for (let n = 0; !over; n++) {
      const browser = fleet.browser()
      for (let tab = 0; tab < 4; tab++) tabs.push(browser.copy().insist(n + tab, seconds).catch(fault => { browser.fate.fault ??= fault.message }))
      await sleep(100)
    }
  })()
  await sleep(1500)
  await happening()
  await sleep(1500)
  over = true
  await coming
  await Promise.all(tabs)
}

async function bySentinel (scene, share = '', extra = []) {
  const redis = await sentinel(scene.folder, extra)
  const fleet = await scene.fleet({ redis, url: urls(redis.urls), share: `kind = "sentinel"\nprimary = "gate"\n${share}` })
  return { redis, fleet }
}

async function moved (redis, from) {
  await until('another primary', async () => { const now = await redis.primary(); return now && now !== from && /role:master/.test(await now.say('INFO', 'replication')) }, 30)
}

for (const acks of [0, 1]) {
  const share = acks ? 'acks = 1' : ''
  const options = { seconds: 120, allowed: acks ? 0 : 2, why: LOST }
  scenario(`Sentinel, share.acks = ${acks}: the primary is killed under load`, options, async scene => {
    const { redis, fleet } = await bySentinel(scene, share)
    const old = await redis.primary()
    await traffic(fleet, async () => { old.kill(); await moved(redis, old) })
    await fleet.shareUp()
  })

  scenario(`Sentinel, share.acks = ${acks}: a planned fail-over under load`, { ...options, allowed: 0 }, async scene => {
    const { redis, fleet } = await bySentinel(scene, share)
    const old = await redis.primary()
    await traffic(fleet, async () => { await redis.watchers[0].say('SENTINEL', 'FAILOVER', 'gate'); await moved(redis, old); await sleep(3000) })
  })

  scenario(`Sentinel, share.acks = ${acks}: the primary pauses, is replaced, and comes back believing it still is`, options, async scene => {
    const { redis, fleet } = await bySentinel(scene, share)
    const old = await redis.primary()
    await traffic(fleet, async () => { await old.pause(); await moved(redis, old); old.resume(); await sleep(5000) })
  })

  scenario(`Sentinel, share.acks = ${acks}: as before, and one replica of ours has nothing to do meanwhile`, { ...options, allowed: 0 }, async scene => {
    const { redis, fleet } = await bySentinel(scene, share)
    await fleet.browser().insist(0)
    const old = await redis.primary()
    await old.pause()
    const since = performance.now()
    await moved(redis, old)
    // The others find the new primary; ours that is idle has only its reader to notice it by.
    await Promise.all(Array.from({ length: 8 }, (_, n) => fleet.browser().insist(1 + n % 2)))
    await sleep(Math.max(0, 5000 - (performance.now() - since)))
    old.resume()
    fleet.backend.delay = () => 1000
    const browsers = Array.from({ length: 20 }, () => fleet.browser())
    await Promise.all(browsers.flatMap(browser => [0, 1, 2].map(n => browser.copy().insist(n))))
  })

  scenario(`Sentinel, share.acks = ${acks}: a claim that is not replicated, then the primary is killed`, { ...options, allowed: acks ? 0 : 1 }, async scene => {
    const { redis, fleet } = await bySentinel(scene, share)
    const old = await redis.primary()
    const others = redis.servers.filter(server => server !== old)
    // The replicas are cut off before the claim comes; the primary dies once a token has been presented, or claimed in vain.
    for (const server of others) await server.pause()
    await old.say('CLIENT', 'KILL', 'TYPE', 'replica')
    const browser = fleet.browser()
    let heard = false
    fleet.backend.once('heard', async () => { heard = true; await sleep(6000) })
    const tabs = Array.from({ length: 12 }, (_, n) => browser.copy().insist(n, 50))
    await sleep(600)
    old.kill()
    for (const server of others) server.resume()
    const early = heard
    scene.say(early ? 'presented before the fail-over' : 'nothing presented before the fail-over')
    demand(acks === 0 || !early, 'presented without a replica that has the claim')
    await Promise.all(tabs)
  })

  const inCluster = async scene => {
    const redis = await cluster(scene.folder)
    return { redis, fleet: await scene.fleet({ redis, url: urls(redis.urls), share: `kind = "cluster"\n${share}` }) }
  }
  scenario(`Cluster, share.acks = ${acks}: a primary is killed under load`, options, async scene => {
    const { redis, fleet } = await inCluster(scene)
    const [{ primary, replica }] = await redis.pairs()
    await traffic(fleet, async () => {
      primary.kill()
      await until('another primary', async () => /role:master/.test(await replica.say('INFO', 'replication')), 30)
      await sleep(2000)
      // It comes back, as a replica: with acks, its shard takes claims again from then on.
      await primary.start()
    })
    await fleet.shareUp()
  })

  scenario(`Cluster, share.acks = ${acks}: planned fail-overs of all shards under load`, { ...options, allowed: 0 }, async scene => {
    const { redis, fleet } = await inCluster(scene)
    await traffic(fleet, async () => {
      for (const { replica } of await redis.pairs()) {
        await replica.say('CLUSTER', 'FAILOVER')
        await until('another primary', async () => /role:master/.test(await replica.say('INFO', 'replication')), 30)
        await sleep(1000)
      }
    })
  })

}

/**
 * The loss that a fail-over allows, brought about on purpose: the primary dies with a claim that none of its replicas has, and
 * the owner of the claim stands still, so that it cannot take it back at the new primary.
 */
const MEASURES = {
  'nothing else is done': { allowed: 1 },
  'share.acks = 1 closes it': { share: 'acks = 1' },
  'min-replicas-to-write 1 closes it': { extra: ['--min-replicas-to-write', '1', '--min-replicas-max-lag', '1'] }
}
for (const [how, { share = '', extra = [], allowed = 0 }] of Object.entries(MEASURES)) {
  scenario(`Sentinel: a claim dies with its primary while its owner stands still, ${how}`, { seconds: 90, allowed, why: LOST }, async scene => {
    const { redis, fleet } = await bySentinel(scene, share, extra)
    const old = await redis.primary()
    const others = redis.servers.filter(server => server !== old)
    for (const server of others) await server.pause()
    await old.say('CLIENT', 'KILL', 'TYPE', 'replica')
    let owner
    fleet.backend.once('heard', async ({ replica }) => {
      if (redis.over) return
      owner = fleet.gateways[replica]
      await owner.pause()
    })
    const browser = fleet.browser()
    const tabs = Array.from({ length: 12 }, (_, n) => browser.copy().insist(n, 60).catch(() => {}))
    if (allowed) await until('a token is presented', () => owner, 20, 20)
    else await sleep(1500)
    scene.say(`${fleet.backend.presented} presented before the primary died`)
    demand(allowed === 1 || fleet.backend.presented === 0, 'presented under a claim that one server had')
    redis.over = true
    old.kill()
    const died = performance.now()
    for (const server of others) server.resume()
    await moved(redis, old)
    scene.say(`another primary after ${Math.round(performance.now() - died)} ms`)
    if (allowed) {
      // A claim stands for 15 s: what is presented before that was lost with the store, and not by the owner's pause.
      await until('it is presented again', () => fleet.backend.again.length > 0, 30, 20)
      owner.resume()
      demand(fleet.backend.reuses === 1, `${fleet.backend.reuses} reuses: the loss did not come about`)
      scene.say(`its owner stood still for ${Math.round((performance.now() - died) / 1000)} s of the fail-over`)
    }
    await Promise.all(tabs)
    await fleet.shareUp()
  })
}

scenario('Cluster: a primary comes back empty at once, before its replica takes over', { seconds: 120 }, async scene => {
  const redis = await cluster(scene.folder)
  const fleet = await scene.fleet({ redis, url: urls(redis.urls), share: 'kind = "cluster"' })
  await traffic(fleet, async () => {
    for (const { primary } of await redis.pairs()) { await primary.restart(50); await sleep(2500) }
  })
})

for (const [user, rights] of [['an ACL user', RIGHTS], ['an ACL user that may not ask INFO', RIGHTS.replace(' +info', '')]]) scenario(`Redis with TLS, an authority of its own and ${user}`, async scene => {
  mkdirSync(scene.folder, { recursive: true })
  const file = name => join(scene.folder, name)
  const openssl = (...words) => execFileSync('openssl', words, { stdio: 'ignore', timeout: 20_000 })
  openssl('req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=replicas authority', '-keyout', file('ca.key'), '-out', file('ca.pem'))
  openssl('req', '-newkey', 'rsa:2048', '-nodes', '-subj', '/CN=127.0.0.1', '-keyout', file('redis.key'), '-out', file('redis.csr'))
  execFileSync('bash', ['-c', 'openssl x509 -req -in "$0/redis.csr" -CA "$0/ca.pem" -CAkey "$0/ca.key" -CAcreateserial -days 2 -out "$0/redis.pem" -extfile <(printf "subjectAltName=IP:127.0.0.1,DNS:localhost")', scene.folder], { stdio: 'ignore', timeout: 20_000 })
  const port = await freePorts(1)
  const password = 'a-password-of-this-scenario'
  const redis = new Server(join(scene.folder, 'redis'), port, [
    '--port', '0', '--tls-port', String(port), '--tls-cert-file', file('redis.pem'), '--tls-key-file', file('redis.key'),
    '--tls-ca-cert-file', file('ca.pem'), '--tls-auth-clients', 'no', '--user', 'default', 'off',
    '--user', ...`gate on >${password} ~doorkeep:* resetchannels -@all ${rights}`.split(' ')
  ], ['--tls', '--cacert', file('ca.pem'), '--user', 'gate', '--pass', password, '--no-auth-warning'])
  await redis.start()
  const plan = { redis, url: `"rediss://localhost:${port}"`, share: `username = "gate"\npassword = "${password}"`, tables: `[trust]\nca = "${file('ca.pem')}"` }
  const fleet = await scene.fleet(plan)
  const browser = fleet.browser()
  const answers = await Promise.all(Array.from({ length: 60 }, (_, n) => browser.copy().ask(n)))
  demand(answers.every(answer => answer.status === 200), 'not all served')
  demand(fleet.backend.renewals === 1, `${fleet.backend.renewals} renewals`)
  await redis.restart(300)
  await Promise.all(Array.from({ length: 20 }, (_, n) => fleet.browser().insist(n)))
  const out = fleet.browsers.pop()
  out.signedOut = true
  demand((await out.ask(0, { method: 'POST', path: '/.doorkeep/sign-out' })).status === 204, 'not signed out')
})
