// Counts the instructions that a request costs, and holds them against those that are kept in kept.json: the one figure of
// cost that does not move with the machine's mood. usage: run.mjs [requests|keep]      requests: without their parts;
// keep: the counts of this run are the ones to keep
//
// callgrind counts what a program does in user space. Each thing is done often and seldom in two runs, and the difference is
// divided: what is done once falls out. What cryptographic libraries do is left out, since they choose their code by the
// processor; the C library is told to choose one way on all of them.
import { execFile, execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { connect } from 'node:net'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { alive, freePorts, signal, start, stopAll } from '../../lib/children.mjs'
import { doorkeep, emptyFolder, output, tests } from '../../lib/places.mjs'
import { check, until } from '../../lib/report.mjs'
import { ask, startApp } from '../lib/asking.mjs'
import { settings } from '../lib/peers.mjs'
import { HOST, makeKeys, mint, mintMany } from '../lib/tokens.mjs'

const KEPT = join(tests, 'bench', 'instructions', 'kept.json')
/** Most that a count may be above the kept one, in percent; where another compiler made the program, more of it is not ours. */
const ALLOWED = 3
const ALLOWED_OTHERWISE = 10
/** Connections that ask at the same time, and how often. */
const CONNECTIONS = 16
const [SELDOM, OFTEN] = [20, 120]
const [FEW, MANY] = [100, 1100]

const run = promisify(execFile)
const folder = emptyFolder(output, 'instructions')
const keys = makeKeys(folder)
// One way through the C library's string functions, whatever the processor offers.
const ENV = { GLIBC_TUNABLES: 'glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-AVX2,-AVX_Fast_Unaligned_Load,-ERMS,-FSRM' }
/** Functions of the cryptographic library. */
const CRYPTO = /^(aws_lc_|OPENSSL_|CRYPTO_|bn_|ecp_|p256_|sha256_|HMAC_|EVP_)/

/** A program under callgrind, on one processor: so its workers are one. */
function counting (program, args) {
  const into = mkdtempSync(join(folder, 'run-'))
  const child = start('taskset', ['-c', '0', 'valgrind', '-q', '--tool=callgrind', `--callgrind-out-file=${into}/counted.%p`, program, ...args],
    join(into, 'log'), ENV, { group: true })
  return { child, into }
}

/** The instructions that a run took, those of cryptography aside. */
function counted (into) {
  let [all, crypto] = [0, 0]
  for (const name of readdirSync(into).filter(name => name.startsWith('counted.'))) {
    const functions = new Map()
    let [ours, skip] = [true, false]
    for (const line of readFileSync(join(into, name), 'latin1').split('\n')) {
      const fn = /^fn=\((\d+)\)(?: (.*))?$/.exec(line)
      if (fn) {
        if (fn[2] !== undefined) functions.set(fn[1], !CRYPTO.test(fn[2]))
        ours = functions.get(fn[1])
      } else if (line.startsWith('calls=')) {
        skip = true // the next line is what the called function took: it is told where that function is
      } else if (/^[+*\d-]/.test(line)) {
        const cost = Number(line.split(' ')[1])
        if (!skip) ours ? all += cost : crypto += cost
        skip = false
      } else {
        const called = /^cfn=\((\d+)\) (.*)$/.exec(line)
        if (called) functions.set(called[1], !CRYPTO.test(called[2]))
      }
    }
  }
  if (all === 0) throw new Error(`callgrind wrote nothing to ${into}`)
  return { all, crypto }
}

/** Somebody else signs out, so that every request is held against what is remembered of sign-outs. */
async function signOut (port) {
  const other = await mint(keys, 'RS256', { sub: 'somebody-else', jti: 'other' })
  const headers = { Host: HOST, Cookie: `access_token=${other}`, 'Sec-Fetch-Site': 'same-origin' }
  const asked = request({ host: '127.0.0.1', port, method: 'POST', path: '/.doorkeep/sign-out', headers, agent: false }).end()
  const [answer] = await once(asked, 'response')
  answer.resume()
  if (answer.statusCode !== 204) throw new Error(`signing out: ${answer.statusCode}`)
}

/** What a gateway costs that answers so many rounds of requests. `first`: what is done before. */
async function gateway (program, { path, cookie, first = async () => {} }, rounds) {
  const port = await freePorts(2)
  const adminPort = port + 1
  const file = join(folder, `${port}.toml`)
  writeFileSync(file, settings({ keys, algorithm: 'RS256', port, adminPort, upstream }))
  const { child, into } = counting(program, ['run', '--config', file])
  await until('the gateway listens', () => alive(child) && new Promise((resolve, reject) => {
    const socket = connect(adminPort, '127.0.0.1', () => resolve(socket.destroy()))
    socket.on('error', reject)
  }), 60)
  await first(port)
  await ask(port, path, cookie, rounds, { connections: CONNECTIONS })
  signal(child, 'SIGTERM')
  await until('callgrind has written', () => child.exitCode !== null || child.signalCode !== null, 60)
  return counted(into)
}

async function part (name, algorithm, count) {
  const file = join(folder, `${algorithm}.toml`)
  writeFileSync(file, settings({ keys, algorithm, port: 1, adminPort: 2, upstream: 3 }))
  const tokens = await mintMany(keys, algorithm, 1, join(folder, `${algorithm}.token`))
  const { child, into } = counting(process.env.BENCH_PARTS, [file, tokens, name, `count=${count}`])
  await until('the part is done', () => child.exitCode !== null, 60)
  if (child.exitCode !== 0) throw new Error(readFileSync(join(into, 'log'), 'utf8'))
  return counted(into)
}

/** What one costs: `measure` is asked for `seldom` and `often`, each of them `each` times as much. */
async function difference (measure, seldom, often, each = 1) {
  const [few, many] = [await measure(seldom), await measure(often)]
  const one = name => Math.round((many[name] - few[name]) / ((often - seldom) * each))
  return { count: one('all'), crypto: one('crypto') }
}

const upstream = await freePorts()
const app = await startApp(upstream)
const cookie = `access_token=${await mint(keys, 'RS256')}`
let minted = 0
const another = async () => `access_token=${await mint(keys, 'RS256', { jti: `new-${String(++minted).padStart(9, '0')}` })}`
/** What requests cost the program; `mark` ends their names. */
function requests (program, mark = '') {
  const of = asked => () => difference(rounds => gateway(program, asked, rounds), SELDOM, OFTEN, CONNECTIONS)
  return {
    [`a plain request${mark}`]: of({ path: '/open/page' }),
    [`a request with a token that is known${mark}`]: of({ path: '/page', cookie }),
    [`the same, once anybody has signed out${mark}`]: of({ path: '/page', cookie: `${cookie}; refresh_token=${'r'.repeat(64)}`, first: signOut }),
    [`a request with a token that is new${mark}`]: of({ path: '/page', cookie: another })
  }
}

const parts = (name, algorithm = 'HS256') => () => difference(count => part(name, algorithm, count), FEW, MANY)
const optimized = process.env.BENCH_OPTIMIZED
const REQUESTS = { ...requests(doorkeep), ...optimized && requests(optimized, ', optimized') }
const PARTS = {
  'reading the target': parts('target'),
  'reading the cookies': parts('cookies'),
  'verifying a new token, without its signature': parts('verify'),
  'a token that is known': parts('remember'),
  'judging': parts('judge'),
  'cleaning the head and saying who asks': parts('forward')
}

/** What is promised, whatever is kept. */
const MOST = { 'a plain request, optimized': 30_000, 'a request with a token that is known, optimized': 40_000 }
const keep = process.argv[2] === 'keep'
const things = process.argv[2] === 'requests' ? REQUESTS : { ...REQUESTS, ...PARTS }
const { stdout } = await run('rustc', ['--version'])
const made = { compiler: /\d+\.\d+/.exec(stdout)[0], processor: process.arch }
const kept = JSON.parse(readFileSync(KEPT, 'utf8'))
const alike = kept.compiler === made.compiler
const allowed = alike ? ALLOWED : ALLOWED_OTHERWISE
const counts = {}
const thousands = number => number.toLocaleString('en-US')
for (const [name, measure] of Object.entries(things)) {
  await check(name, async () => {
    const { count, crypto } = await measure()
    counts[name] = count
    const was = kept.counts[name]
    const change = (count / was - 1) * 100
    const told = `${thousands(count)} instructions${crypto > count / 100 ? `, and ${thousands(crypto)} of cryptography` : ''}`
    console.log(`   ${name}: ${told}${was ? ` (kept: ${thousands(was)}, ${change >= 0 ? '+' : ''}${change.toFixed(1)} %)` : ''}`)
    if (count > MOST[name]) throw new Error(`${told}: more than the ${thousands(MOST[name])} that are promised`)
    if (keep || kept.processor !== made.processor) return
    if (was === undefined) throw new Error('no count is kept; tests/bench/instructions/run keep')
    if (change < -ALLOWED) console.log('   fewer than are kept: tests/bench/instructions/run keep holds on to it')
    if (change > allowed) {
      throw new Error(`${told}, kept are ${thousands(was)}: ${change.toFixed(1)} % more, and ${allowed} % are allowed. ` +
        `Which function it is: callgrind_annotate ${folder}/run-*/counted.*; if it is worth it: tests/bench/instructions/run keep, and commit kept.json`)
    }
  }, 180)
}
await stopAll()
app.close()
if (keep) writeFileSync(KEPT, JSON.stringify({ ...made, counts: { ...alike && kept.processor === made.processor && kept.counts, ...counts } }, null, 2) + '\n')
