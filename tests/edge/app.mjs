// The app behind the gateway under attack: short answers, and a large one.
import { createServer } from 'node:http'

const large = Buffer.alloc(20_000_000)
const app = createServer((request, response) => {
  request.resume()
  request.on('error', () => {})
  request.on('end', () => response.end(request.url === '/large' ? large : 'x'.repeat(64)))
})
app.listen(Number(process.argv[2]), '127.0.0.1', 4096)
