// Every way in which a client can tell a service on @open-age/express-api that it is somebody else.
// Read from that package's parsers/claims.js (what is read, and in which order), from Node's header folding and from qs,
// which reads Express's query strings: names are percent-decoded, `[name]` is `name` whatever follows, `name[]`, `name[0]`,
// `name[x]`, `name[` and repeats make lists and objects, and brackets are decoded even beside an escape that is none.

export const BOSS = 'boss'

/** Where the address of the client is taken from `X-Forwarded-For`. */
export const ELSEWHERE = '203.0.113.66'

/** All vectors as { name, method?, query?, headers? }; `forged` is an access token of the boss that nobody signed. */
export function vectors (forged) {
  return [...headerVectors(forged), ...queryVectors(forged), ...mixedVectors(forged)]
}

const FIELDS = {
  'session-id': 'session-boss',
  'role-key': 'role-boss',
  'organization-code': 'organization-boss',
  'organization-id': 'organization-boss',
  'tenant-code': 'tenant-boss',
  'tenant-id': 'tenant-boss',
  'context-id': 'context-boss'
}

function headerVectors (forged) {
  const list = []
  const add = (name, ...headers) => list.push({ name, headers })
  for (const [field, value] of Object.entries({ ...FIELDS, 'access-token': forged })) {
    add(`header x-${field}`, [`x-${field}`, value])
    add(`header X-${field.toUpperCase()}`, [`X-${field.toUpperCase()}`, value])
  }
  add('header x-access-token with Bearer', ['x-access-token', `Bearer ${forged}`])
  add('header authorization: Bearer', ['Authorization', `Bearer ${forged}`])
  add('header authorization: bearer', ['authorization', `bearer ${forged}`])
  add('header authorization without a scheme', ['AUTHORIZATION', forged])
  add('header authorization twice', ['Authorization', `Bearer ${forged}`], ['Authorization', 'Basic eDp5'])
  add('header x-role-key twice', ['x-role-key', 'role-alice'], ['x-role-key', 'role-boss'])
  add('header x-role-key, empty and not', ['x-role-key', ''], ['X-Role-Key', 'role-boss'])
  add('header x-tenant-code twice', ['x-tenant-code', 'a'], ['x-tenant-code', 'tenant-boss'])
  add('header x-forwarded-for', ['X-Forwarded-For', ELSEWHERE])
  return list
}

/** Spellings of one parameter that Express reads as the plain name with a text. */
const AS_TEXT = {
  plain: (name, value) => `${name}=${value}`,
  'in brackets': (name, value) => `[${name}]=${value}`,
  'in encoded brackets': (name, value) => `%5B${name}%5d=${value}`,
  'in brackets, encoded': (name, value) => `[${escaped(name)}]=${value}`,
  'encoded dash': (name, value) => `${name.replace(/[-_]/, byte => escaped(byte))}=${value}`,
  'encoded throughout': (name, value) => `${escaped(name)}=${escaped(value)}`,
  'encoded in lower case': (name, value) => `${escaped(name).toLowerCase()}=${value}`,
  'after another': (name, value) => `a=1&${name}=${value}`,
  'after empty ones': (name, value) => `&&=&${name}=${value}`,
  'after a bad escape': (name, value) => `%zz=%&${name}=${value}`,
  'after 990 others': (name, value) => `${'a&'.repeat(990)}${name}=${value}`,
  'in brackets, with more behind': (name, value) => `[${name}]x=${value}`,
  'in brackets, with a bad escape': (name, value) => `[${name}%5D%=${value}`,
  'before another': (name, value) => `${name}=${value}&a=%20`
}

/** Spellings that make a list: a service that puts the value into a text still meets the value. */
const AS_LIST = {
  'with []': (name, value) => `${name}[]=${value}`,
  'with [0]': (name, value) => `${name}[0]=${value}`,
  'with %5B%5D': (name, value) => `${name}%5B%5D=${value}`,
  'with [] and more behind': (name, value) => `${name}[]x=${value}`,
  'in brackets, with []': (name, value) => `[${name}][]=${value}`,
  'encoded, with []': (name, value) => `${escaped(name)}%5b%5d=${value}`
}

/** Spellings that make an object, or a list of several. */
const AS_OBJECT = {
  'with [key]': (name, value) => `${name}[key]=${value}`,
  'with [ alone': (name, value) => `${name}[=${value}`,
  'with %5B and a bad escape': (name, value) => `${name}%5B%=${value}`,
  'with [99]': (name, value) => `${name}[99]=${value}`,
  'with [a][b]': (name, value) => `${name}[a][b]=${value}`,
  twice: (name, value) => `${name}=a&${name}=${value}`,
  'plain and in brackets': (name, value) => `${name}=a&[${name}]=${value}`
}

function queryVectors (forged) {
  const list = []
  const add = (name, spellings, value) => {
    for (const [how, spell] of Object.entries(spellings)) list.push({ name: `query ${name}, ${how}`, query: spell(name, value) })
  }
  for (const [field, value] of Object.entries(FIELDS)) {
    add(field, AS_TEXT, value)
    add(field, AS_LIST, value)
    // A list of two, or an object, is the id of no session.
    if (field !== 'session-id') add(field, AS_OBJECT, value)
  }
  for (const name of ['access-token', 'access_token']) {
    add(name, AS_TEXT, forged)
    add(name, { 'with Bearer': AS_TEXT.plain, 'with Bearer, in brackets': AS_TEXT['in brackets'] }, `Bearer%20${forged}`)
  }
  return list
}

function mixedVectors (forged) {
  return [
    { name: 'query and header: role-key and x-session-id', query: 'role-key=role-boss', headers: [['x-session-id', 'session-boss']] },
    { name: 'query and header: tenant-code and x-organization-code', query: '[tenant-code]=tenant-boss', headers: [['x-organization-code', 'organization-boss']] },
    { name: 'POST with query role-key', method: 'POST', query: 'role-key=role-boss' },
    { name: 'POST with header x-access-token', method: 'POST', headers: [['x-access-token', forged]] },
    { name: 'every header at once', headers: Object.entries(FIELDS).map(([field, value]) => [`x-${field}`, value]) },
    { name: 'absolute-form target with query role-key', absolute: true, query: 'role-key=role-boss' }
  ]
}

function escaped (text) {
  return [...Buffer.from(text)].map(byte => `%${byte.toString(16).padStart(2, '0').toUpperCase()}`).join('')
}
