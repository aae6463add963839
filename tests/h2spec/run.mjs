// h2spec, a conformance suite for HTTP/2 servers, against the gateway with an app behind it: by TLS, and without.
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { alive, freePorts, start, stopAll } from '../lib/children.mjs'
import { forEverybody, selfSigned } from '../lib/gateway.mjs'
import { doorkeep, emptyFolder, output, work } from '../lib/places.mjs'
import { check, until } from '../lib/report.mjs'
import { send } from '../lib/wire.mjs'

const folder = emptyFolder(output, 'h2spec')
const program = process.env.H2SPEC ?? join(work, 'h2spec')
const at = name => join(folder, name)

/** An app that reads what it gets and answers a few bytes. */
async function startApp () {
  const app = createServer((request, response) => {
    request.resume()
    request.on('end', () => response.end('x'.repeat(64)))
    request.on('error', () => {})
  })
  app.unref()
  await new Promise(resolve => app.listen(0, '127.0.0.1', resolve))
  return app.address().port
}

async function startGateway (upstream) {
  const [plain, tls] = [await freePorts(), await freePorts()]
  writeFileSync(at('doorkeep.toml'), forEverybody({
    listen: `http = "127.0.0.1:${plain}"\nhttps = "127.0.0.1:${tls}"`,
    more: selfSigned(folder),
    origin: `https://127.0.0.1:${tls}`,
    upstream
  }))
  const child = start(doorkeep, ['run', '--config', at('doorkeep.toml')], at('doorkeep.log'))
  await until('the gateway answers', async () => alive(child) && (await send({ port: plain })).status === 200)
  return { plain, tls }
}

/** Runs the suite; its cases, each with whether it passed. */
async function h2spec (name, port, ...more) {
  const words = ['-h', '127.0.0.1', '-p', String(port), '-o', '3', '--strict', ...more]
  // The app answers from this process, so nothing may block it. Failed cases are no fault of the run: they are counted below.
  const run = await new Promise(resolve => execFile(program, words, { timeout: 120_000, maxBuffer: 1 << 24 },
    (fault, stdout, stderr) => resolve({ fault, stdout, stderr })))
  writeFileSync(at(`${name}.log`), `${run.stdout}${run.stderr}`)
  const counts = /(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed/.exec(run.stdout)
  assert.ok(counts, `no result: ${run.fault ?? run.stderr}`)
  const [, all, passed, skipped, failed] = counts.map(Number)
  const names = [...new Set([...run.stdout.matchAll(/× \d+: (.+)/g)].map(([, text]) => text.trim()))]
  console.log(`   ${name}: ${all} cases, ${passed} passed, ${skipped} skipped, ${failed} failed`)
  return { all, passed, failed, names }
}

/**
 * The cases that fail every time, of three runs at most. Where the tool's frame is read after its stream has come to its own end,
 * that frame is rightly ignored (RFC 9113 §5.1, closed) and the case sees no error: on a busy machine that happens now and then.
 */
async function failing (name, port, expected, ...more) {
  let stubborn
  for (let turn = 1; turn <= 3; turn++) {
    const { all, passed, names } = await h2spec(`${name}-${turn}`, port, ...more)
    assert.ok(all > 140 && passed >= all - 3, 'nearly all of some hundred and forty cases pass')
    stubborn = stubborn?.filter(one => names.includes(one)) ?? names
    if (stubborn.length <= expected) break
  }
  return stubborn
}

const { plain, tls } = await startGateway(await startApp())
await check('h2spec by TLS: every case passes', async () => {
  assert.deepEqual(await failing('tls', tls, 0, '-t', '-k'), [])
}, 150)
await check('h2spec without TLS: every case passes but the one that HTTP/1.1 answers there', async () => {
  // What does not begin with HTTP/2's preface is HTTP/1.1 on that listener, and gets its 400 before the end.
  assert.deepEqual(await failing('plain', plain, 1), ['Sends invalid connection preface'])
}, 150)
await stopAll()
