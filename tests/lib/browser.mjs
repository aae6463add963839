// A real browser that can ask nobody but this machine.
import { load } from './places.mjs'

/** Starts the browser; `options` are those of its context. */
export async function startBrowser (options = {}) {
  const { chromium } = load('playwright-core')
  const quiet = ['--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-proxy-server']
  const nowhere = '--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE localhost , EXCLUDE 127.0.0.1'
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox', nowhere, ...quiet], timeout: 60_000 })
  const context = await browser.newContext(options)
  await context.route(url => !['localhost', '127.0.0.1'].includes(url.hostname), route => route.abort())
  return { browser, context }
}
