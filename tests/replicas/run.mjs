// All scenarios, or those whose name holds the word given.
import './crowds.mjs'
import './wires.mjs'
import './stores.mjs'
import './cost.mjs'
import './flights.mjs'
import { runAll } from './scenarios.mjs'

await runAll(process.argv[2])
