// TCP between two parties, to be slowed, cut, and stopped at a certain command.
import { connect, createServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

const UNKNOWN = Buffer.from('-NOSCRIPT')

const listen = server => new Promise(resolve => server.listen(0, '127.0.0.1', () => resolve(server.address().port)))

/** Passes bytes to `port`. `cutAfter` says for each connection after how many bytes of the answer (or request) it is cut. */
export class Wire {
  constructor (port) {
    this.near = new Set()
    this.cutAfter = () => ({ request: Infinity, answer: Infinity })
    this.server = createServer(near => {
      const far = connect(port(), '127.0.0.1')
      const left = this.cutAfter()
      this.near.add(near)
      const end = () => { near.destroy(); far.destroy(); this.near.delete(near) }
      for (const [from, to, side] of [[near, far, 'request'], [far, near, 'answer']]) {
        from.on('error', end).on('close', end)
        from.on('data', bytes => {
          if (bytes.length >= left[side]) {
            to.write(bytes.subarray(0, left[side]), () => setTimeout(end, 2))
            left[side] = 0
          } else {
            left[side] -= bytes.length
            to.write(bytes)
          }
        })
      }
    })
  }

  async listen () { this.port = await listen(this.server); return this.port }
  cutAll () { for (const near of this.near) near.destroy() }
  close () { this.server.close(); this.cutAll() }
}

/** Between a replica and Redis. It knows the commands of a flight, and can stop at each of them. */
export class RedisWire {
  constructor (port) {
    Object.assign(this, { target: port, hooks: [], delay: 0, closed: false, all: new Set(), seen: new Map() })
    this.server = createServer(near => new Conversation(this, near))
  }

  async listen () { this.port = await listen(this.server); return this.port }
  cutAll () { for (const one of this.all) one.end() }
  close () { this.server.close(); this.cutAll() }

  /** `act` is called once, 'before' the command named so reaches Redis or 'after' its answer has come back from there. */
  once (name, when, act) { this.hooks.push({ name, when, act }) }

  async at (name, when) {
    const n = this.hooks.findIndex(hook => hook.name === name && hook.when === when)
    if (n < 0) return
    const [hook] = this.hooks.splice(n, 1)
    await hook.act()
  }
}

class Conversation {
  constructor (wire, near) {
    Object.assign(this, { wire, near, asked: Buffer.alloc(0), answered: Buffer.alloc(0), names: [], due: 0 })
    this.going = Promise.resolve()
    this.coming = Promise.resolve()
    if (wire.closed) return void near.destroy()
    wire.all.add(this)
    this.far = connect(wire.target(), '127.0.0.1')
    for (const one of [near, this.far]) one.setNoDelay(true).on('error', () => this.end()).on('close', () => this.end())
    near.on('data', bytes => this.#request(bytes))
    this.far.on('data', bytes => this.#reply(bytes))
  }

  end () { this.ended = true; this.near.destroy(); this.far?.destroy(); this.wire.all.delete(this) }

  #request (bytes) {
    this.asked = Buffer.concat([this.asked, bytes])
    for (let end; (end = lengthOf(this.asked, 0)) > 0;) {
      const raw = this.asked.subarray(0, end)
      this.asked = this.asked.subarray(end)
      const name = nameOf(words(raw))
      this.wire.seen.set(name, (this.wire.seen.get(name) ?? 0) + 1)
      this.going = this.going.then(async () => {
        await this.wire.at(name, 'before')
        if (this.ended) return
        this.names.push(name)
        this.far.write(raw)
      })
    }
  }

  #reply (bytes) {
    this.answered = Buffer.concat([this.answered, bytes])
    for (let end; (end = lengthOf(this.answered, 0)) > 0;) {
      const raw = this.answered.subarray(0, end)
      this.answered = this.answered.subarray(end)
      const name = this.names.shift()
      const due = Date.now() + this.wire.delay
      this.coming = this.coming.then(async () => {
        if (due > Date.now()) await sleep(due - Date.now())
        // A script that Redis does not know yet is loaded and called again.
        if (!raw.subarray(0, 9).equals(UNKNOWN)) await this.wire.at(name, 'after')
        if (!this.ended) this.near.write(raw)
      })
    }
  }
}

/** Where the value that starts at `at` ends (RESP 2 and 3), or -1 where it is not all there. */
function lengthOf (buffer, at) {
  const line = buffer.indexOf('\r\n', at)
  if (line < 0) return -1
  const kind = String.fromCharCode(buffer[at])
  const count = Number(buffer.toString('latin1', at + 1, line))
  let end = line + 2
  if ('$=!'.includes(kind)) {
    if (count < 0) return end
    end += count + 2
    return end <= buffer.length ? end : -1
  }
  if (!'*~>%'.includes(kind)) return end
  for (let n = kind === '%' ? count * 2 : count; n > 0; n--) {
    end = lengthOf(buffer, end)
    if (end < 0) return -1
  }
  return end
}

function words (raw) {
  const out = []
  for (let at = raw.indexOf('\r\n') + 2; at < raw.length;) {
    const line = raw.indexOf('\r\n', at)
    const count = Number(raw.toString('latin1', at + 1, line))
    out.push(raw.toString('latin1', line + 2, line + 2 + count))
    at = line + 2 + count + 2
  }
  return out
}

/** What a command is in a flight. Scripts are told apart by how many keys and values they take. */
function nameOf ([command, ...rest]) {
  const name = command.toUpperCase()
  if (name !== 'EVALSHA' && name !== 'EVAL') return name
  const keys = Number(rest[1])
  const values = rest.slice(2 + keys)
  const shape = `${keys}/${values.length}`
  return { '4/5': 'claim', '3/4': 'store', '2/5': 'sent', '2/4': 'extend', '3/3': 'release' }[shape] ?? (rest[2]?.endsWith(':mark') ? 'mark' : 'shorten')
}
