// The load: wrk for HTTP/1.1, h2load for HTTP/2 and for new connections. A run in which an answer was no 200 counts for nothing.
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { LOAD, runOn, spent } from './machine.mjs'
import { HOST } from './tokens.mjs'

export const CONNECTIONS = 64

const DONE = `
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format('figures %d %d %d %d\\n', summary.requests, summary.duration, e.status, e.connect + e.read + e.write + e.timeout))
end
`
/** Requests with each token of the file in its turn, made before the first is sent. */
const TOKENS = `
local requests, at = {}, 0
function init()
  for token in io.lines(FILE) do
    requests[#requests + 1] = wrk.format('GET', nil, { Host = HOST, Cookie = 'access_token=' .. token })
  end
  io.write('begun\\n')
  io.flush()
end
function request()
  at = at + 1
  if at > #requests then over() end
  return requests[at]
end
`
/** What follows the last one: the first again; or it says so and asks for nothing more. */
const TURNS = `
function over() at = 1 end
`
const ONCE = `
local said
function over()
  at = #requests
  if said then return end
  said = true
  io.write('over\\n')
  io.flush()
  wrk.thread:stop()
end
`

/** wrk for so many seconds. `tokens`: a file of them; in turns, or `once`: then it takes as long as that takes. */
async function wrk (peer, seconds, { tokens, once = false, processors = LOAD } = {}) {
  const script = join(peer.folder, 'load.lua')
  const names = `local FILE, HOST = '${tokens}', '${HOST}'\n`
  writeFileSync(script, DONE + (tokens ? names + TOKENS + (once ? ONCE : TURNS) : ''))
  const args = ['-t1', `-c${CONNECTIONS}`, `-d${seconds}s`, '-s', script, '-H', `Host: ${HOST}`]
  const cookie = !tokens && peer.cookie ? ['-H', `Cookie: ${peer.cookie}`] : []
  let since = performance.now()
  const running = runOn(processors, 'wrk', [...args, ...cookie, `http://127.0.0.1:${peer.port}${peer.path}`], seconds + 30)
  let took
  // It waits for its time to be over, unless it is interrupted.
  running.child.stdout.on('data', said => {
    if (String(said).includes('begun\n')) since = performance.now()
    if (!String(said).includes('over\n')) return
    took = (performance.now() - since) / 1000
    running.child.kill('SIGINT')
  })
  const said = await running
  const [requests, microseconds, refused, broken] = /figures (\d+) (\d+) (\d+) (\d+)/.exec(said).slice(1).map(Number)
  assert.equal(refused + broken, 0, `${peer.name}: ${refused} answers were no 200, ${broken} connections broke`)
  assert.ok(requests > 100, `${peer.name}: only ${requests} requests`)
  assert.ok(!once || took, `${peer.name}: not all tokens were sent within ${seconds} s`)
  return { requests, seconds: took ?? microseconds / 1e6 }
}

/** What a second of processor time of `peer` was spent on while `load` ran. */
async function costing (peer, load) {
  const before = spent(peer.child)
  const { requests, seconds } = await load()
  const cost = spent(peer.child) - before
  return { cpu: cost * 1e6 / requests, rate: requests / seconds, busy: cost / seconds, requests }
}

/** Microseconds of processor time per request, after a second of the same load. */
export async function cost (peer, seconds, options) {
  await wrk(peer, 1, options)
  return costing(peer, () => wrk(peer, seconds, options))
}

/** The same for tokens that nobody has seen: `warm` is a file of others, for the second before. */
export async function costOnce (peer, tokens, warm) {
  await wrk(peer, 1, { tokens: warm })
  return costing(peer, () => wrk(peer, 60, { tokens, once: true }))
}

/** Sends each token of a file once. */
export const sendOnce = (peer, tokens) => wrk(peer, 120, { tokens, once: true })

async function h2load (peer, args, seconds) {
  const cookie = peer.cookie ? ['-H', `cookie: ${peer.cookie}`] : []
  const all = [...args, '-t1', '--connect-to', `127.0.0.1:${peer.port}`, ...cookie, `https://${HOST}${peer.path}`]
  const said = await runOn(LOAD, 'h2load', all, seconds + 30)
  const [good, ...others] = /status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx/.exec(said).slice(1).map(Number)
  const [failed, errored] = /(\d+) failed, (\d+) errored/.exec(said).slice(1).map(Number)
  assert.equal(failed + errored + others.reduce((a, b) => a + b), 0, `${peer.name}: not all were answered with 200: ${said}`)
  assert.match(said, /Application protocol: h2\n/, `${peer.name}: HTTP/2`)
  assert.match(said, /TLS Protocol: TLSv1.3\n/, `${peer.name}: TLS 1.3`)
  const [, time, unit] = /finished in ([\d.]+)(ms|s|us),/.exec(said)
  return { requests: good, seconds: Number(time) * { s: 1, ms: 1e-3, us: 1e-6 }[unit] }
}

/** Microseconds per request by TLS 1.3 and HTTP/2: 32 connections, ten streams at a time on each. */
export async function costHttp2 (peer, seconds) {
  const streams = ['-c32', '-m10']
  await h2load(peer, [...streams, '-D1'], 1)
  return costing(peer, () => h2load(peer, [...streams, `-D${seconds}`], seconds))
}

/** Microseconds per new TLS connection with one request on it. */
export async function costConnection (peer, count) {
  const each = ['-m1', '-r400']
  await h2load(peer, [...each, '-n400', '-c400'], 5)
  return costing(peer, () => h2load(peer, ['-m1', '-r1000', `-n${count}`, `-c${count}`], 30))
}

/** wrk on the same processors as the peer. */
export async function costTogether (peer, tokens, warm, processors) {
  await wrk(peer, 1, { tokens: warm, processors })
  return costing(peer, () => wrk(peer, 60, { tokens, once: true, processors }))
}
