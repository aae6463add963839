// Keys of this run, and tokens that are signed with them.
import { createHmac, generateKeyPairSync, randomBytes, sign as signWith } from 'node:crypto'
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'

const sign = promisify(signWith)
export const ALGORITHMS = ['HS256', 'RS256', 'ES256']
export const ISSUER = 'https://id.bench.example'
export const AUDIENCE = 'bench'
export const HOST = 'app.bench.example'
export const USER = 'user-8d2f4c10'

/** Makes all keys, and a certificate for [`HOST`], below `folder`. */
export function makeKeys (folder) {
  const at = name => join(folder, name)
  const secret = randomBytes(24).toString('base64url')
  const pairs = {
    RS256: generateKeyPairSync('rsa', { modulusLength: 2048 }),
    ES256: generateKeyPairSync('ec', { namedCurve: 'P-256' })
  }
  const pem = key => key.export({ type: key.type === 'public' ? 'spki' : 'pkcs8', format: 'pem' })
  const keys = { secret, files: {}, jwks: {}, signers: { HS256: secret } }
  writeFileSync(at('HS256.key'), secret, { mode: 0o600 })
  keys.files.HS256 = at('HS256.key')
  keys.jwks.HS256 = { kty: 'oct', alg: 'HS256', kid: 'k1', k: Buffer.from(secret).toString('base64url') }
  for (const [algorithm, pair] of Object.entries(pairs)) {
    keys.files[algorithm] = at(`${algorithm}.pem`)
    writeFileSync(keys.files[algorithm], pem(pair.publicKey))
    keys.jwks[algorithm] = { ...pair.publicKey.export({ format: 'jwk' }), alg: algorithm, kid: 'k1' }
    keys.signers[algorithm] = pair.privateKey
  }
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2',
    '-keyout', at('site.key'), '-out', at('site.crt'), '-subj', `/CN=${HOST}`, '-addext', `subjectAltName=DNS:${HOST}`], { stdio: 'ignore' })
  keys.certificate = { cert: at('site.crt'), key: at('site.key') }
  return keys
}

/** One token. `alg: 'none'` and other keys make those that nobody may take. */
export async function mint (keys, algorithm, claims = {}, { key = keys.signers[algorithm] } = {}) {
  const now = Math.floor(Date.now() / 1000)
  const payload = {
    iss: ISSUER, aud: AUDIENCE, sub: USER, iat: now - 60, exp: now + 86400,
    jti: '5f0c7a52-9f8e-4b8e-9a51-0d7f6a3c1b2e', scope: 'openid profile email', email: 'someone@users.example',
    roles: ['reader', 'editor'], ...claims
  }
  const text = [{ alg: algorithm, typ: 'JWT', kid: 'k1' }, payload]
    .map(part => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.')
  if (algorithm === 'none') return `${text}.`
  const signature = algorithm === 'HS256'
    ? createHmac('sha256', key).update(text).digest()
    : await sign('sha256', Buffer.from(text), { key, dsaEncoding: 'ieee-p1363' })
  return `${text}.${signature.toString('base64url')}`
}

/** A file with `count` different tokens, one a line. */
export async function mintMany (keys, algorithm, count, file, prefix = 'session') {
  const lines = []
  for (let at = 0; at < count; at += 500) {
    const some = Array.from({ length: Math.min(500, count - at) }, (_, n) =>
      mint(keys, algorithm, { jti: `${prefix}-${String(at + n).padStart(9, '0')}` }))
    lines.push(...await Promise.all(some))
  }
  writeFileSync(file, lines.join('\n') + '\n')
  return file
}

/** The text with another letter there. */
export const changed = (text, at) => text.slice(0, at) + (text[at] === 'A' ? 'B' : 'A') + text.slice(at + 1)

/** Tokens that no peer may take, by what is wrong with them. */
export async function forgeries (keys, algorithm) {
  const good = await mint(keys, algorithm)
  const other = algorithm === 'RS256' ? 'ES256' : 'RS256'
  const past = Math.floor(Date.now() / 1000) - 3600
  const made = {
    'no token': undefined,
    'an empty token': '',
    'a changed signature': changed(good, good.length - 20),
    'one that is over': await mint(keys, algorithm, { exp: past }),
    'no signature': await mint(keys, 'none'),
    'another algorithm': await mint(keys, other),
    'another issuer': await mint(keys, algorithm, { iss: 'https://evil.example' }),
    'another audience': await mint(keys, algorithm, { aud: 'somebody-else' })
  }
  if (algorithm !== 'HS256') {
    made['the public key as a secret'] = await mint(keys, 'HS256', {}, { key: readFileSync(keys.files[algorithm]) })
  }
  return made
}
