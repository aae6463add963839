// Child processes with an owner: each is stopped by its own process id, however this process ends.
import { spawn } from 'node:child_process'
import { openSync, closeSync } from 'node:fs'
import { createServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

const running = new Set()

/**
 * Starts a program; both its outputs go to the file `log`. Its stdin stays open as long as this process lives.
 * `group`: it starts others, and signals go to all of them.
 */
export function start (program, args, log, env = {}, { group = false } = {}) {
  const file = openSync(log, 'w')
  const child = spawn(program, args, { env: { ...process.env, ...env }, stdio: ['pipe', file, file], detached: group })
  closeSync(file)
  child.group = group
  running.add(child)
  child.stdin.on('error', () => {})
  child.on('error', fault => { child.fault = fault; running.delete(child) })
  child.on('exit', () => running.delete(child))
  return child
}

/** That it still runs; throws, for good, what ended it or kept it from starting. */
export function alive (child) {
  const end = child.exitCode ?? child.signalCode
  const fault = child.fault ?? (end === null ? undefined : new Error(`${child.spawnfile} ended by itself with ${end}`))
  if (fault) throw Object.assign(fault, { fatal: true })
  return true
}

/** Sends a signal to a program, or to the group that it leads. A program that is gone already gets none. */
export function signal (child, name) {
  if (!child.group) return child.kill(name)
  try {
    return process.kill(-child.pid, name)
  } catch (fault) {
    if (fault.code !== 'ESRCH') throw fault
    return false
  }
}

/** Asks to stop, and insists after five seconds. */
export async function stop (child) {
  signal(child, 'SIGTERM')
  for (let waited = 0; running.has(child) && waited < 5000; waited += 50) await sleep(50)
  if (running.has(child)) signal(child, 'SIGKILL')
}

export const stopAll = () => Promise.all([...running].map(stop))

/** The first of `count` ports in a row that nobody listens on, on either loopback address. */
export async function freePorts (count = 1) {
  for (let tries = 0; tries < 200; tries++) {
    const first = 20000 + Math.floor(Math.random() * 12000)
    const ports = Array.from({ length: count }, (_, i) => first + i)
    if ((await Promise.all(ports.map(isFree))).every(Boolean)) return first
  }
  throw new Error(`no ${count} free ports in a row`)
}

async function isFree (port) {
  for (const host of ['127.0.0.1', '::1']) {
    const taken = await new Promise(resolve => {
      const server = createServer()
      server.once('error', fault => resolve(fault.code === 'EADDRINUSE'))
      server.listen(port, host, () => server.close(() => resolve(false)))
    })
    if (taken) return false
  }
  return true
}

process.on('exit', () => { for (const child of running) signal(child, 'SIGKILL') })
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => stopAll().finally(() => process.exit(1)))
