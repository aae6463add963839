// Whoever is measured: how it is started, and that it does its work before any figure of it counts.
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { request as plainRequest } from 'node:http'
import { request as tlsRequest } from 'node:https'
import { join } from 'node:path'
import { alive, freePorts, stop } from '../../lib/children.mjs'
import { doorkeep, output, work } from '../../lib/places.mjs'
import { until } from '../../lib/report.mjs'
import { MEASURED, resident, startOn } from './machine.mjs'
import { signIn } from './provider.mjs'
import { ALGORITHMS, AUDIENCE, HOST, ISSUER, USER, changed, forgeries, mint } from './tokens.mjs'

const envoy = join(work, 'bench', 'envoy')

/** The settings of an ordinary Doorkeep: one rule for users, one for everybody, three headers, metrics, the log in a file. */
export function settings (setup) {
  const { keys, algorithm = 'HS256', port, adminPort, upstream, tls, httpPort = port } = setup
  const key = algorithm === 'HS256' ? `key = "file:${keys.files.HS256}"` : `pem = "file:${keys.files[algorithm]}"`
  return `
secret = "what seals in this run of the benches, long enough"
[listen]
http = "127.0.0.1:${httpPort}"
${tls ? `https = "127.0.0.1:${port}"` : ''}
admin = "127.0.0.1:${adminPort}"
body = "4GiB"
connections = 20000
connections_per_client = 20000 # the whole load comes from one address
${tls ? `[[tls]]\ncert = "${keys.certificate.cert}"\nkey = "${keys.certificate.key}"` : ''}
[session]
backend = "oauth2"
[session.token]
algorithms = ["${algorithm}"]
${key}
issuer = "${ISSUER}"
audience = ["${AUDIENCE}"]
[login]
url = "https://id.bench.example/login"
[backend.oauth2]
token_url = "https://127.0.0.1:1/token" # nothing is renewed here
client_id = "bench"
client_secret = "what is told to nobody"
[identity]
subject = "sub"
[identity.headers]
"X-Auth-User" = "sub"
"X-Auth-Email" = "email"
"X-Auth-Roles" = "roles"
[[site]]
host = "${HOST}"
origin = "${tls ? 'https' : 'http'}://${HOST}"
upstream = ["http://127.0.0.1:${upstream}"]
[[site.rule]]
path = "/*"
[[site.rule]]
path = "/open/*"
access = "public"
`
}

/** Doorkeep: as cargo builds it, or as deploy/optimize does. */
const startDoorkeep = program => setup => {
  const file = join(setup.folder, 'doorkeep.toml')
  writeFileSync(file, settings(setup))
  return [program, ['run', '--config', file]]
}

function startNginx ({ folder, port, upstream, tls, keys }) {
  const file = join(folder, 'nginx.conf')
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(kind => `${kind}_temp_path ${folder}/${kind};`).join(' ')
  writeFileSync(file, `
daemon off; worker_processes 1; pid ${folder}/pid; error_log stderr crit;
events { worker_connections 20000; }
http {
  ${temporary}
  access_log ${folder}/access.log combined buffer=64k flush=1s;
  keepalive_requests 1000000000; keepalive_timeout 600s; tcp_nodelay on;
  ${tls ? `ssl_certificate ${keys.certificate.cert}; ssl_certificate_key ${keys.certificate.key}; ssl_protocols TLSv1.3;` : ''}
  upstream app { server 127.0.0.1:${upstream}; keepalive 256; keepalive_requests 1000000000; }
  server {
    listen 127.0.0.1:${port} ${tls ? 'ssl http2' : ''} backlog=4096;
    client_max_body_size 0; proxy_request_buffering off; proxy_max_temp_file_size 0;
    location / {
      proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Auth-User "";
    }
  }
}
`)
  return ['nginx', ['-c', file]]
}

function startHaproxy ({ folder, port, upstream, tls, keys, algorithm }) {
  const file = join(folder, 'haproxy.cfg')
  const pem = join(folder, 'site.pem')
  if (tls) writeFileSync(pem, readFileSync(keys.certificate.cert, 'utf8') + readFileSync(keys.certificate.key, 'utf8'), { mode: 0o600 })
  const key = algorithm === 'HS256' ? keys.secret : keys.files[algorithm]
  const token = algorithm
    ? `
  http-request set-var(txn.token) req.cook(access_token)
  http-request deny deny_status 401 unless { var(txn.token) -m found }
  http-request deny deny_status 401 unless { var(txn.token),jwt_header_query('$.alg') -m str ${algorithm} }
  http-request deny deny_status 401 unless { var(txn.token),jwt_verify("${algorithm}","${key}") -m int 1 }
  http-request deny deny_status 401 unless { var(txn.token),jwt_payload_query('$.iss') -m str ${ISSUER} }
  http-request deny deny_status 401 unless { var(txn.token),jwt_payload_query('$.aud') -m str ${AUDIENCE} }
  http-request set-var(txn.exp) var(txn.token),jwt_payload_query('$.exp','int')
  http-request set-var(txn.now) date()
  http-request deny deny_status 401 if { var(txn.exp),sub(txn.now) -m int le 0 }
  http-request set-header x-auth-user %[var(txn.token),jwt_payload_query('$.sub')]`
    : ''
  writeFileSync(file, `
global
  nbthread 1
  maxconn 9000
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  http-reuse always
frontend front
  bind 127.0.0.1:${port} backlog 4096 ${tls ? `ssl crt ${pem} alpn h2,http/1.1 ssl-min-ver TLSv1.3` : ''}
  option forwardfor
  http-request del-header x-auth-user${token}
  default_backend app
backend app
  server app 127.0.0.1:${upstream} pool-max-conn 1024
`)
  return ['haproxy', ['-db', '-q', '-f', file]]
}

function startEnvoy ({ folder, port, upstream, tls, keys, algorithm }) {
  const type = 'type.googleapis.com/envoy.extensions.'
  const at = number => ({ socket_address: { address: '127.0.0.1', port_value: number } })
  const filters = []
  if (algorithm) {
    const provider = {
      issuer: ISSUER,
      audiences: [AUDIENCE],
      from_cookies: ['access_token'],
      forward: true,
      claim_to_headers: [{ header_name: 'x-auth-user', claim_name: 'sub' }],
      local_jwks: { inline_string: JSON.stringify({ keys: [keys.jwks[algorithm]] }) },
      jwt_cache_config: { jwt_cache_size: 10000 }
    }
    filters.push({
      name: 'envoy.filters.http.jwt_authn',
      typed_config: {
        '@type': `${type}filters.http.jwt_authn.v3.JwtAuthentication`,
        providers: { own: provider },
        rules: [{ match: { prefix: '/' }, requires: { provider_name: 'own' } }]
      }
    })
  }
  filters.push({ name: 'envoy.filters.http.router', typed_config: { '@type': `${type}filters.http.router.v3.Router`, suppress_envoy_headers: true } })
  const http = {
    '@type': `${type}filters.network.http_connection_manager.v3.HttpConnectionManager`,
    stat_prefix: 'bench',
    use_remote_address: true,
    generate_request_id: false,
    http_filters: filters,
    route_config: {
      virtual_hosts: [{
        name: 'all',
        domains: ['*'],
        request_headers_to_remove: algorithm ? [] : ['x-auth-user'],
        routes: [{ match: { prefix: '/' }, route: { cluster: 'app', timeout: '0s' } }]
      }]
    }
  }
  const chain = { filters: [{ name: 'http', typed_config: http }] }
  if (tls) {
    const common = {
      alpn_protocols: ['h2', 'http/1.1'],
      tls_params: { tls_minimum_protocol_version: 'TLSv1_3', tls_maximum_protocol_version: 'TLSv1_3' },
      tls_certificates: [{ certificate_chain: { filename: keys.certificate.cert }, private_key: { filename: keys.certificate.key } }]
    }
    const context = { '@type': `${type}transport_sockets.tls.v3.DownstreamTlsContext`, common_tls_context: common }
    chain.transport_socket = { name: 'tls', typed_config: context }
  }
  const endpoint = { lb_endpoints: [{ endpoint: { address: at(upstream) } }] }
  const file = join(folder, 'envoy.json')
  writeFileSync(file, JSON.stringify({
    static_resources: {
      listeners: [{ name: 'bench', address: at(port), filter_chains: [chain] }],
      clusters: [{ name: 'app', type: 'STATIC', connect_timeout: '5s', load_assignment: { cluster_name: 'app', endpoints: [endpoint] } }]
    }
  }))
  return [envoy, ['-c', file, '--concurrency', '1', '--disable-hot-restart', '-l', 'critical']]
}

/** Its session lies sealed in its cookie; it checks none below /open/. It keeps two connections to an app, whatever it is told. */
function startOauth2Proxy ({ folder, port, upstream, provider }) {
  const [file, alpha] = [join(folder, 'oauth2-proxy.cfg'), join(folder, 'alpha.yaml')]
  writeFileSync(file, `
cookie_secret = "${randomBytes(16).toString('hex')}"
cookie_secure = false
email_domains = ["*"]
redirect_url = "${provider.redirect}"
skip_provider_button = true
skip_auth_routes = ["^/open/"]
standard_logging = false
auth_logging = false
request_logging = false
`)
  // YAML is a superset of JSON.
  writeFileSync(alpha, JSON.stringify({
    server: { bindAddress: `127.0.0.1:${port}` },
    upstreamConfig: { upstreams: [{ id: 'app', path: '/', uri: `http://127.0.0.1:${upstream}` }] },
    injectRequestHeaders: [{ name: 'X-Auth-User', values: [{ claimSource: { claim: 'user' } }] }],
    providers: [{
      id: 'bench',
      provider: 'oidc',
      clientID: provider.client.id,
      clientSecret: provider.client.secret,
      scope: 'openid',
      skipClaimsFromProfileURL: true,
      code_challenge_method: 'S256',
      oidcConfig: { issuerURL: provider.issuer, emailClaim: 'sub', userIDClaim: 'sub', audienceClaims: ['aud'], insecureAllowUnverifiedEmail: true }
    }]
  }))
  return [process.env.BENCH_OAUTH2_PROXY, ['--config', file, '--alpha-config', alpha]]
}

const startFloor = (...options) => ({ port, upstream, tls, keys, algorithm }) => {
  const key = algorithm ? [`key=${keys.files[algorithm]}`, `algorithm=${algorithm}`] : []
  const certificate = tls ? [`cert=${keys.certificate.cert}`, `tls=${keys.certificate.key}`] : []
  return [process.env.BENCH_FLOOR, [`127.0.0.1:${port}`, `127.0.0.1:${upstream}`, ...key, ...certificate, ...options]]
}

const optimized = process.env.BENCH_OPTIMIZED

/**
 * Each with the algorithms of tokens that it checks, in the order in which they take turns: whom we are held against is measured beside us.
 * `session`: it takes no token from the load, but keeps a session of its own, that began with a token of this algorithm.
 */
export const PEERS = {
  nginx: { start: startNginx, tokens: [] },
  Doorkeep: { start: startDoorkeep(doorkeep), tokens: ALGORITHMS },
  ...optimized && { optimized: { start: startDoorkeep(optimized), tokens: ALGORITHMS } },
  floor: { start: startFloor(), tokens: ALGORITHMS },
  Envoy: { start: startEnvoy, tokens: ALGORITHMS },
  HAProxy: { start: startHaproxy, tokens: ALGORITHMS },
  ...process.env.BENCH_OAUTH2_PROXY && { 'oauth2-proxy': { start: startOauth2Proxy, tokens: ['RS256'], session: true } }
}

/** The floor again, with connections to the app that the library looks after: what a pool of one's own is held against. */
export const POOLED = 'floor-library-pool'
PEERS[POOLED] = { start: startFloor('pool=library'), tokens: [], aside: true }

/** The Doorkeep of rows that are measured with one of them alone. */
export const OWN = optimized ? 'optimized' : 'Doorkeep'

const folders = join(output, 'bench')
mkdirSync(folders, { recursive: true })

/** A running peer. */
export class Peer {
  /**
   * `algorithm`: it checks tokens of that kind; `tls`: it speaks TLS, with HTTP/2; `processors`: where it runs;
   * `startIt`: starts the program itself, with nothing before it.
   */
  static async start (name, { keys, upstream, provider, algorithm, tls, processors = MEASURED, startIt }) {
    const folder = mkdtempSync(join(folders, `${name}-`))
    const port = await freePorts(3)
    const setup = { keys, upstream, provider, algorithm, tls, folder, port, adminPort: port + 1, httpPort: tls ? port + 2 : port }
    const [program, args] = PEERS[name].start(setup)
    const log = join(folder, 'log')
    const since = performance.now()
    const child = startIt ? startIt(program, args, log, {}, { group: true }) : startOn(processors, program, args, log)
    const peer = Object.assign(new Peer(), { name, ...setup, child })
    peer.path = algorithm ? '/page' : '/open/page'
    await until(`${name} answers`, async () => alive(child) && await peer.begins(), 20, 1)
      .catch(async fault => {
        await stop(child)
        throw new Error(`${fault.message}: ${readFileSync(log, 'utf8').slice(-2000)}`, { cause: fault.cause })
      })
    peer.startedIn = performance.now() - since
    peer.heldAtStart = resident(child)
    return peer
  }

  /** Whether it answers whom it lets through. */
  async begins () {
    if (this.algorithm) this.cookie ??= await this.credentials(USER)
    return (await this.get(this.path, this.cookie)).status === 200
  }

  /** The cookie of this user. */
  async credentials (user) {
    if (PEERS[this.name].session) return signIn(this.provider, this.port, user, this.path)
    return `access_token=${await mint(this.keys, this.algorithm, { sub: user })}`
  }

  /** One request on a connection of its own, from a client that would like to be somebody else. */
  get (path, cookie, port = this.port) {
    const tls = this.tls && port === this.port
    const headers = { Host: HOST, 'X-Auth-User': 'forged', ...cookie && { Cookie: cookie } }
    const options = { host: '127.0.0.1', port, path, headers, agent: false, timeout: 5000, servername: HOST, rejectUnauthorized: false }
    return new Promise((resolve, reject) => {
      const asked = (tls ? tlsRequest : plainRequest)(options, answer => {
        let body = ''
        answer.setEncoding('latin1')
        answer.on('data', piece => { body += piece })
        answer.on('end', () => resolve({ status: answer.statusCode, headers: answer.headers, body }))
        answer.on('error', reject)
      })
      asked.on('timeout', () => asked.destroy(new Error('no answer within 5 s')))
      asked.on('error', reject)
      asked.end()
    })
  }

  /** A good request gets the app's answer, and the app is told who asks; a bad one gets none of it. */
  async check () {
    const good = await this.get(this.path, this.cookie)
    assert.equal(good.status, 200, `${this.name}: a good request`)
    assert.equal(good.headers['x-upstream'], 'app', `${this.name}: the answer is the app's`)
    assert.equal(good.body.length, 1024, `${this.name}: the answer is whole`)
    const told = (await this.get(this.algorithm ? '/echo' : '/open/echo', this.cookie)).body
    assert.ok(!told.includes('forged'), `${this.name}: a client says who it is`)
    if (!this.algorithm) return
    assert.match(told, new RegExp(`^x-auth-user: ${USER}\r$`, 'im'), `${this.name}: the app is told who asks`)
    assert.equal((await this.get(this.path, await this.credentials('another'))).status, 200, `${this.name}: a second good one`)
    for (const [what, cookie] of Object.entries(await this.forgeries())) {
      const answer = await this.get(this.path, cookie)
      assert.ok(answer.status !== 200 && !answer.headers['x-upstream'], `${this.name}: ${what} is let through`)
    }
  }

  /** Cookies that nobody may take, by what is wrong with them. */
  async forgeries () {
    if (!PEERS[this.name].session) {
      const tokens = Object.entries(await forgeries(this.keys, this.algorithm))
      return Object.fromEntries(tokens.map(([what, token]) => [what, token === undefined ? undefined : `access_token=${token}`]))
    }
    const [name, value] = this.cookie.split(/=(.*)/s)
    return { 'no session': undefined, 'an empty session': `${name}=`, 'a changed session': `${name}=${changed(value, 40)}` }
  }

  /** Ends it; what it wrote goes, but for the log of one that fails. */
  async stop () {
    await stop(this.child)
    rmSync(this.folder, { recursive: true, force: true })
  }
}
