// One line per fact: `ok NAME` or `not ok NAME: why`. The exit code says whether all held.
import { setTimeout as sleep } from 'node:timers/promises'

/** Runs `body`; what it throws, or a wait of more than `seconds`, makes the fact false. */
export async function check (name, body, seconds = 30) {
  const limit = new AbortController()
  try {
    await Promise.race([
      body(),
      sleep(seconds * 1000, null, { signal: limit.signal, ref: false }).then(() => { throw new Error(`not over after ${seconds} s`) })
    ])
    console.log(`ok ${name}`)
    return true
  } catch (fault) {
    process.exitCode = 1
    console.log(`not ok ${name}: ${oneLine(fault)}`)
    return false
  } finally {
    limit.abort()
  }
}

/** Asks `probe` until it answers something truthy; a probe that throws is asked again, unless the fault is `fatal`. */
export async function until (what, probe, seconds = 15, pause = 100) {
  const end = Date.now() + seconds * 1000
  for (let last; ;) {
    try {
      const answer = await probe()
      if (answer) return answer
      last = undefined
    } catch (fault) {
      if (fault.fatal) throw fault
      last = fault
    }
    if (Date.now() > end) throw new Error(`${what}: not within ${seconds} s`, { cause: last })
    await sleep(pause)
  }
}

function oneLine (fault) {
  const text = fault instanceof Error ? `${fault.message}${fault.cause ? ` (${fault.cause.message ?? fault.cause})` : ''}` : String(fault)
  return text.replace(/\u001b\[[0-9;]*m/g, '').replace(/\s+/g, ' ').slice(0, 600)
}
