// The container's files, as far as they can be tried without a container engine: what the Dockerfile says is done by hand, its
// build in a copy of nothing but the files that it copies, its program in a root of nothing but what its base image has.
// Not tried: that the base images can be had and hold what is said here of them.
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { chmodSync, copyFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { start, stopAll } from '../lib/children.mjs'
import { doorkeep, output, tests } from '../lib/places.mjs'
import { check, until } from '../lib/report.mjs'

const repo = realpathSync(join(tests, '..'))
const file = join(repo, 'deploy', 'Dockerfile')
const compose = join(repo, 'deploy', 'compose.yaml')
const sudo = process.getuid() === 0 ? [] : ['sudo', '-n']
/** What gcr.io/distroless/cc has beside certificates: the C library, libgcc and libstdc++. */
const LIBRARIES = ['linux-vdso', 'ld-linux-', 'libc.so.6', 'libm.so.6', 'libgcc_s.so.1', 'libdl.so.2', 'libpthread.so.0', 'librt.so.1']
const CERTIFICATES = '/etc/ssl/certs/ca-certificates.crt'

const stages = read(readFileSync(file, 'utf8'))
const [build, final] = stages
const folder = mkdtempSync(join(tmpdir(), 'doorkeep-container-'))

/** The stages of a Dockerfile, each a list of [instruction, rest]. */
function read (text) {
  const lines = text.replace(/\\\n/g, ' ').split('\n').map(line => line.trim()).filter(line => line && !line.startsWith('#'))
  const stages = []
  for (const line of lines) {
    const [, word, rest] = /^(\S+)\s+(.*)$/.exec(line)
    if (word.toUpperCase() === 'FROM') stages.push([])
    stages.at(-1).push([word.toUpperCase(), rest])
  }
  return stages
}

const all = (stage, word) => stage.filter(([own]) => own === word).map(([, rest]) => rest)
function only (stage, word) {
  const found = all(stage, word)
  assert.equal(found.length, 1, `${word} once`)
  return found[0]
}
const run = (...words) => execFileSync(...(([program, ...args]) => [program, args])([...sudo, ...words]), { stdio: ['ignore', 'pipe', 'pipe'], timeout: 30_000 }).toString()

/** A root with nothing but what the base image has, and the program where the Dockerfile puts it. */
function assemble () {
  const root = join(folder, 'root')
  for (const path of ['etc/ssl/certs', 'etc/doorkeep', 'proc', 'tmp']) mkdirSync(join(root, path), { recursive: true })
  writeFileSync(join(root, 'etc/passwd'), 'root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n')
  writeFileSync(join(root, 'etc/nsswitch.conf'), 'hosts: files dns\n')
  copyFileSync(CERTIFICATES, join(root, CERTIFICATES))
  for (const line of run('ldd', doorkeep).split('\n').filter(line => line.trim())) {
    const name = line.trim().split(' ')[0]
    assert.ok(LIBRARIES.some(known => name.includes(known)), `${name} is not in the base image`)
    const path = /(\/\S+)/.exec(line.includes('=>') ? line.split('=>')[1] : line)?.[1]
    if (!path) continue
    mkdirSync(join(root, dirname(path)), { recursive: true })
    copyFileSync(path, join(root, path))
  }
  const [from, to] = only(final, 'COPY').split(/\s+/).slice(1)
  assert.ok(from.endsWith('/target/release/doorkeep'))
  mkdirSync(join(root, dirname(to)), { recursive: true })
  copyFileSync(doorkeep, join(root, to))
  chmodSync(join(root, to), 0o755)
  return root
}

/** The command line in the root, as the container's only process. */
function inside (root, command, log) {
  const namespaces = ['unshare', '--mount', '--net', '--pid', '--fork', '--kill-child']
  const words = [...sudo, ...namespaces, join(tests, 'container', 'enter'), root, only(final, 'USER'), ...command]
  return start(words[0], words.slice(1), log)
}

/** Its process id out here, once it is the program itself. */
async function pidOf (child, program) {
  return until('the program in its container', () => {
    const below = pid => readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').filter(Boolean)
    const tree = pid => [pid, ...below(pid).flatMap(tree)]
    return tree(String(child.pid)).find(pid => readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')[0] === program)
  })
}

const into = (pid, ...words) => run('nsenter', '--target', pid, '--net', ...words)
const ask = (pid, url, headers = {}) => JSON.parse(into(pid, process.execPath, '-e', `
  const { request } = require('node:http')
  const asked = request(${JSON.stringify(url)}, { headers: ${JSON.stringify(headers)}, agent: false }, answer => {
    answer.resume()
    console.log(JSON.stringify({ status: answer.statusCode, location: answer.headers.location }))
  })
  asked.on('error', fault => console.log(JSON.stringify({ fault: fault.code })))
  asked.end()`))

/** The health check of the image, run as an engine does: in the same container. */
function health (pid, root) {
  const command = JSON.parse(/CMD (\[.*\])$/.exec(only(final, 'HEALTHCHECK'))[1])
  const [user, group] = only(final, 'USER').split(':')
  const words = ['nsenter', '--target', pid, '--net', '--mount', 'chroot', `--userspec=${user}:${group}`, root, ...command]
  return spawnSync([...sudo, ...words][0], [...sudo, ...words].slice(1), { timeout: 30_000 }).status
}

const settings = () => readFileSync(join(repo, 'config', 'directory.toml'), 'utf8')
  .replace(/^secret = .*$/m, 'secret = "file:/etc/doorkeep/secret"')

await check('container: the Dockerfile is read', () => {
  assert.equal(stages.length, 2)
  assert.match(only(build, 'FROM'), /^rust:1-bookworm AS build$/)
  assert.match(only(final, 'FROM'), /^gcr\.io\/distroless\/cc-debian12:nonroot$/, 'the C library of the same Debian')
  assert.match(only(final, 'USER'), /^[1-9]\d*:[1-9]\d*$/)
  assert.equal(all(final, 'RUN').length, 0, 'there is no shell')
  for (const word of ['ENTRYPOINT', 'CMD']) assert.ok(Array.isArray(JSON.parse(only(final, word))), `${word} needs no shell`)
})

await check('container: what is copied is enough to build, with the very command', () => {
  const copy = join(folder, 'copy')
  mkdirSync(copy)
  const wanted = readFileSync(`${file}.dockerignore`, 'utf8').split('\n').filter(line => line.startsWith('!')).map(line => line.slice(1))
  for (const line of all(build, 'COPY')) {
    const names = line.split(/\s+/).slice(0, -1)
    for (const name of names) {
      assert.ok(wanted.includes(name), `${name} is left out by .dockerignore`)
      cpSync(join(repo, name), join(copy, name), { recursive: true, preserveTimestamps: true })
    }
  }
  // The copy takes the place of the repository, so that the release build which is there counts for it: cargo builds anew
  // whatever would not be the same, and fails where a file is missing.
  const target = realpathSync(dirname(dirname(doorkeep)))
  const places = ['mkdir -p "$1/target"', 'mount --bind "$2" "$1/target"', 'mount --rbind "$1" "$3"', 'cd "$3"', '[ ! -e tests ]', 'exec sh -c "$4"']
  const words = ['unshare', '--mount', ...(sudo.length ? ['--map-root-user'] : []), 'sh', '-ec', places.join('\n'), 'sh', copy, target, repo, `${only(build, 'RUN')} --offline -v`]
  const env = { ...process.env, CARGO_TARGET_DIR: join(repo, 'target') }
  const done = spawnSync(words[0], words.slice(1), { env, timeout: 400_000 })
  const said = `${done.stdout}${done.stderr}`
  writeFileSync(join(output, 'container-build.log'), said)
  assert.equal(done.status, 0, said.slice(-600))
  const fresh = said.split('\n').filter(line => line.trim().startsWith('Fresh ')).length
  assert.ok(fresh > 100, `${fresh} crates counted`)
}, 420)

const root = assemble()
const entry = JSON.parse(only(final, 'ENTRYPOINT'))
const demo = { log: join(output, 'container-demo.log') }

await check('container: compose.yaml is one', () => {
  run('docker-compose', '--file', compose, 'config', '--quiet')
  const json = run('python3', '-c', 'import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))', compose)
  demo.service = JSON.parse(json).services.demo
  assert.equal(demo.service.user, only(final, 'USER'))
  assert.ok(demo.service.read_only && demo.service.cap_drop.includes('ALL') && demo.service.security_opt.includes('no-new-privileges:true'))
  assert.equal(realpathSync(join(dirname(compose), demo.service.build.context)), repo)
  assert.ok(existsSync(join(repo, demo.service.build.dockerfile)))
  for (const port of demo.service.ports) assert.match(port, /^127\.0\.0\.1:(\d+):\1$/, 'this machine alone, by the port that pages name')
})

await check('container: the demo runs without rights in a root with nothing else, read-only', async () => {
  demo.child = inside(root, [...entry, ...demo.service.command], demo.log)
  demo.pid = await pidOf(demo.child, entry[0])
  const status = readFileSync(`/proc/${demo.pid}/status`, 'utf8')
  const line = name => new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(status)[1]
  assert.match(line('Uid'), /^65532\s+65532\s+65532\s+65532$/)
  assert.match(line('NSpid'), /\s1$/, 'it is the first process, as in a container')
  for (const set of ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb']) assert.equal(Number.parseInt(line(set), 16), 0, set)
  assert.equal(line('NoNewPrivs'), '1')
  const mounts = run('cat', `/proc/${demo.pid}/mountinfo`).split('\n').map(line => line.split(' '))
  assert.ok(mounts.some(fields => fields[4] === '/' && fields[5].split(',').includes('ro')), 'read-only')
  await until('the demo to serve', () => ask(demo.pid, 'http://127.0.0.1:8080/', { Host: 'localhost:8080' }).status)
  const page = ask(demo.pid, 'http://10.99.0.1:8080/', { Host: 'localhost:8080', Accept: 'text/html' })
  assert.equal(page.status, 302, JSON.stringify(page))
  assert.match(page.location, /^http:\/\/localhost:8081\/login\?redirect=/)
  assert.equal(ask(demo.pid, 'http://10.99.0.1:8081/login', { Host: 'localhost:8081' }).status, 200)
  for (const port of [8082, 8083, 9900]) {
    assert.equal(ask(demo.pid, `http://10.99.0.1:${port}/`).fault, 'ECONNREFUSED', `${port} is for the inside`)
  }
}, 60)

await check('container: the health check tells', async () => {
  assert.equal(health(demo.pid, root), 0)
  const other = inside(root, [...entry, ...demo.service.command.slice(0, -1), '127.0.0.1:9901'], join(output, 'container-other.log'))
  const pid = await pidOf(other, entry[0])
  await until('the other demo to serve', () => ask(pid, 'http://127.0.0.1:8080/', { Host: 'localhost:8080' }).status)
  assert.equal(health(pid, root), 1, 'nobody is asked at another address')
  run('kill', '-KILL', pid)
}, 60)

await check('container: the demo stops at SIGTERM', async () => {
  run('kill', '-TERM', demo.pid)
  await until('its end', () => demo.child.exitCode !== null, 20)
  assert.equal(demo.child.exitCode, 0)
  assert.match(readFileSync(demo.log, 'utf8'), /Stopping\./)
})

await check('container: settings are read where the image looks for them', async () => {
  writeFileSync(join(root, 'etc/doorkeep/doorkeep.toml'), settings())
  for (const name of ['secret', 'access.key']) writeFileSync(join(root, 'etc/doorkeep', name), 'x'.repeat(48))
  const log = join(output, 'container-run.log')
  const child = inside(root, [...entry, ...JSON.parse(only(final, 'CMD'))], log)
  const pid = await pidOf(child, entry[0])
  await until('it to be ready', () => health(pid, root) === 0)
  run('kill', '-TERM', pid)
  await until('its end', () => child.exitCode !== null, 20)
  assert.equal(child.exitCode, 0, readFileSync(log, 'utf8').slice(-400))
}, 60)

await stopAll()
rmSync(folder, { recursive: true, force: true })
