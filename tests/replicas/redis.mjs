// Redis on loopback: one server, a primary that Sentinels watch, a Cluster. Each server is a process of its own.
import { execFile } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { freePorts, start } from '../lib/children.mjs'
import { until } from '../lib/report.mjs'

const run = promisify(execFile)
const MEMORY_ONLY = ['--save', '', '--appendonly', 'no', '--bind', '127.0.0.1', '--repl-diskless-sync-delay', '0']

/** Until each thread of a process has stopped: on a busy machine that takes a moment after the signal. */
export async function stopped (pid) {
  const running = () => readdirSync(`/proc/${pid}/task`).some(task => !/\) [Tt] /.test(readFileSync(`/proc/${pid}/task/${task}/stat`, 'utf8')))
  await until('the process has stopped', () => !running(), 5, 2)
}

/** One server, which can be killed, started again with nothing in it, and stopped where it is. */
export class Server {
  constructor (folder, port, options = [], cli = []) {
    Object.assign(this, { folder, port, options, cli })
    mkdirSync(folder, { recursive: true })
  }

  launch () {
    const options = ['--port', String(this.port), ...MEMORY_ONLY, '--dir', this.folder, ...this.options]
    this.child = start('redis-server', options, join(this.folder, `log.${Date.now()}`))
  }

  async start () { this.launch(); await this.ready(); return this }
  async ready () { await until('Redis answers', async () => /PONG|NOAUTH/.test(await this.say('PING')), 15, 20) }
  kill () { this.child.kill('SIGKILL') }

  async restart (away = 0) {
    const old = this.child
    if (old.exitCode === null && old.signalCode === null) {
      const gone = new Promise(resolve => old.once('exit', resolve))
      old.kill('SIGKILL')
      await gone
    }
    await new Promise(resolve => setTimeout(resolve, away))
    await this.start()
  }

  async pause (milliseconds) {
    this.paused = true
    this.child.kill('SIGSTOP')
    if (milliseconds) setTimeout(() => this.resume(), milliseconds)
    await stopped(this.child.pid)
  }

  resume () { this.child.kill('SIGCONT'); this.paused = false }

  /** What redis-cli prints. */
  async say (...words) {
    const { stdout } = await run('redis-cli', ['-h', '127.0.0.1', '-p', String(this.port), ...this.cli, ...words], { timeout: 5000 }).catch(fault => ({ stdout: fault.stdout ?? '' }))
    return stdout
  }

  async figure (section, name) { return Number(new RegExp(`^${name}:(\\d+)`, 'm').exec(await this.say('INFO', section))?.[1]) }
}

export async function single (folder, options, cli) {
  return new Server(join(folder, 'redis'), await freePorts(1), options, cli).start()
}

/** A primary, two replicas, three Sentinels that need two votes. */
export async function sentinel (folder, extra = []) {
  const first = await freePorts(6)
  const servers = []
  for (let n = 0; n < 3; n++) {
    const options = n === 0 ? extra : ['--replicaof', '127.0.0.1', String(first), ...extra]
    servers.push(await new Server(join(folder, `redis-${n}`), first + n, options).start())
  }
  const synced = async () => /connected_slaves:2/.test(await servers[0].say('INFO', 'replication')) &&
    (await servers[0].say('INFO', 'replication')).match(/state=online/g)?.length === 2
  await until('the replicas are in step', synced, 30)
  const watchers = []
  for (let n = 0; n < 3; n++) {
    const place = join(folder, `sentinel-${n}`)
    mkdirSync(place, { recursive: true })
    const file = join(place, 'sentinel.conf')
    writeFileSync(file, [
      `port ${first + 3 + n}`, 'bind 127.0.0.1', `dir ${place}`, `sentinel monitor gate 127.0.0.1 ${first} 2`,
      'sentinel down-after-milliseconds gate 1000', 'sentinel failover-timeout gate 4000', ''
    ].join('\n'))
    const watcher = new Server(place, first + 3 + n)
    watcher.child = start('redis-server', [file, '--sentinel'], join(place, 'log'))
    watchers.push(watcher)
  }
  for (const watcher of watchers) {
    const knows = async () => {
      const lines = (await watcher.say('SENTINEL', 'MASTER', 'gate')).split('\n')
      const value = name => lines[lines.indexOf(name) + 1]
      return value('num-slaves') === '2' && value('num-other-sentinels') === '2'
    }
    await until('the Sentinels know each other', knows, 30)
  }
  const primary = async () => {
    const port = Number((await watchers[0].say('SENTINEL', 'GET-MASTER-ADDR-BY-NAME', 'gate')).split('\n')[1])
    return servers.find(server => server.port === port)
  }
  return { servers, watchers, primary, urls: watchers.map(watcher => watcher.port) }
}

/** Three primaries with a replica each. */
export async function cluster (folder) {
  const first = await freePorts(12)
  const servers = await Promise.all(Array.from({ length: 6 }, (_, n) => new Server(join(folder, `node-${n}`), first + n, [
    '--cluster-enabled', 'yes', '--cluster-config-file', 'nodes.conf', '--cluster-node-timeout', '1000', '--cluster-port', String(first + 6 + n)
  ]).start()))
  await run('redis-cli', ['--cluster', 'create', ...servers.map(server => `127.0.0.1:${server.port}`), '--cluster-replicas', '1', '--cluster-yes'], { timeout: 40_000 })
  for (const server of servers) {
    await until('the Cluster is whole', async () => /cluster_state:ok/.test(await server.say('CLUSTER', 'INFO')), 30)
    await until('each primary has its replica', async () => /master_link_status:up|state=online/.test(await server.say('INFO', 'replication')), 30)
  }
  /** The primaries with their replicas, as they are now. */
  const pairs = async () => {
    const alive = servers.filter(server => server.child.exitCode === null && server.child.signalCode === null)
    const nodes = (await alive[0].say('CLUSTER', 'NODES')).trim().split('\n').map(line => line.split(' '))
    const at = node => servers.find(server => server.port === Number(/:(\d+)@/.exec(node[1])[1]))
    return nodes.filter(node => /master/.test(node[2]) && !/fail/.test(node[2]) && node.length > 8)
      .map(node => ({ primary: at(node), replica: nodes.filter(other => other[3] === node[0] && !/fail/.test(other[2])).map(at)[0] }))
  }
  return { servers, pairs, urls: servers.map(server => server.port) }
}
