// A small service on @open-age/express-api, wired as its documentation says: it answers with the context that the
// framework derived from the request. The framework decodes access tokens and does not verify them, so this app believes
// whoever reaches it. Beside it runs the directory that the framework asks for sessions.
// Prints one line of JSON with its ports. Needs NODE_PATH (the installed modules) and ends with its parent.
'use strict'
const http = require('node:http')

const SESSIONS = new Map(['alice', 'boss'].map(who => [`session-${who}`, { id: `session-${who}`, status: 'active', user: { id: who } }]))
const USERS = new Map(['alice', 'boss'].map(who => [`role-${who}`, { id: who, role: { key: `role-${who}` } }]))

const directory = http.createServer((request, response) => {
  const session = SESSIONS.get(decodeURIComponent(request.url.split('/').pop()))
  const answer = session ? { isSuccess: true, data: session } : { isSuccess: false, message: 'NO_SUCH_SESSION' }
  response.setHeader('content-type', 'application/json')
  response.end(JSON.stringify(answer))
})

function serve () {
  process.env.NODE_CONFIG = JSON.stringify({
    auth: { provider: 'directory', config: { secret: 'never used to verify', validate: { session: true } } },
    providers: { directory: { url: `http://127.0.0.1:${directory.address().port}`, role: { key: 'role-of-the-service' } } },
    api: { errors: {} },
    service: {},
    logger: {}
  })
  const app = require('express')()
  app.set('trust proxy', 'loopback')
  const options = {
    context: { builder: async claims => ({ ...claims, user: claims.user || (claims.session && claims.session.user) }) },
    users: { get: async ({ role }) => USERS.get(String(role.key)) }
  }
  const who = async function who ({ context }) {
    const { id, ip, user, session, role, organization, tenant, permissions, impersonating } = context
    return { id, ip, user, session, role, organization, tenant, permissions, impersonating }
  }
  const api = require('@open-age/express-api')(app, options)
  api.model('who').register([
    { action: 'GET', method: who, code: 'who-get' },
    { action: 'POST', method: who, code: 'who-post' }
  ])
  api.model('public').register({ action: 'GET', method: who, code: 'public-get' })
  const server = app.listen(0, '127.0.0.1', () => console.log(JSON.stringify({ app: server.address().port })))
}

directory.listen(0, '127.0.0.1', serve)
process.stdin.on('end', () => process.exit()).resume()
