// Starts the provider, with one client whose users come back to `redirect`.
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { alive, freePorts, start } from '../../lib/children.mjs'
import { until } from '../../lib/report.mjs'
import { send } from '../../lib/wire.mjs'

const here = fileURLToPath(new URL('.', import.meta.url))

/** `modules`: where the library is installed; `life`: seconds of an access token; `log`: a file. */
export async function startProvider ({ modules, life, redirect, log }) {
  const port = await freePorts()
  const secret = randomBytes(32).toString('hex')
  const client = { id: 'gateway', secret: randomBytes(24).toString('base64url') }
  const child = start(process.execPath, [join(here, 'op.mjs'), JSON.stringify({ port, modules, secret, life, client, redirect })], log)
  await until('the provider answers', async () => alive(child) && (await send({ port, path: '/.well-known/openid-configuration' })).status === 200, 30)
  return { port, client, child }
}
