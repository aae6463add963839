// What the machine tells about processes, and on which of its processors they run.
import { execFile } from 'node:child_process'
import { readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { promisify } from 'node:util'
import { start } from '../../lib/children.mjs'

const call = promisify(execFile)

/** The processor of what is measured, and of the load and the app. */
export const [MEASURED, LOAD] = (process.env.BENCH_CPUS ?? '0,1').split(',')

export function needTwoProcessors () {
  if (cpus().length < 2) throw new Error('needs two processors: one for what is measured, one for the load')
}

/** Starts a program on these processors, with as many descriptors as the machine allows. */
export function startOn (processors, program, args, log, env = {}) {
  const wide = 'ulimit -n "$(ulimit -Hn)"; exec "$0" "$@"'
  return start('taskset', ['-c', processors, 'bash', '-c', wide, program, ...args], log, env, { group: true })
}

const loads = new Set()
process.on('exit', () => { for (const child of loads) child.kill('SIGKILL') })

/** Runs a program on these processors to its end: a promise of what it said, whose `child` is the process. */
export function runOn (processors, program, args, seconds) {
  const limits = { maxBuffer: 1 << 26, timeout: seconds * 1000, killSignal: 'SIGKILL' }
  const running = call('taskset', ['-c', processors, program, ...args], limits)
  loads.add(running.child)
  running.child.on('exit', () => loads.delete(running.child))
  return Object.assign(running.then(({ stdout }) => stdout), { child: running.child })
}

/** The processes of the session that `child` leads. */
function members (child) {
  const found = []
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue
    const stat = read(`/proc/${name}/stat`)
    if (Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[3]) === child.pid) found.push(name)
  }
  return found
}

/** Seconds of processor time that they have had, to the nanosecond; threads that ended are not in it. */
export function spent (child) {
  let nanoseconds = 0
  for (const pid of members(child)) {
    for (const thread of list(`/proc/${pid}/task`)) {
      nanoseconds += Number(read(`/proc/${pid}/task/${thread}/schedstat`).split(' ')[0])
    }
  }
  return nanoseconds / 1e9
}

const sum = (child, file, pattern) => members(child).reduce(
  (all, pid) => all + Number(pattern.exec(read(`/proc/${pid}/${file}`))?.[1] ?? 0), 0)

/** KiB that they hold now, most that they have held, and their share of what they hold with others. */
export const resident = child => sum(child, 'status', /VmRSS:\s+(\d+)/)
export const peak = child => sum(child, 'status', /VmHWM:\s+(\d+)/)
export const share = child => sum(child, 'smaps_rollup', /^Pss:\s+(\d+)/m)

/** The peak begins at what they hold now. */
export function forgetPeak (child) {
  for (const pid of members(child)) writeFileSync(`/proc/${pid}/clear_refs`, '5')
}

// A process or thread may end while it is looked at.
function read (path) {
  try { return readFileSync(path, 'utf8') } catch { return '' }
}
function list (path) {
  try { return readdirSync(path) } catch { return [] }
}
