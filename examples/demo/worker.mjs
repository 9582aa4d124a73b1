// One Node worker: adds 1 to the number in the ledger, ROUNDS times, under the lock or without it.
import { readFileSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { lock } from 'dlock-engine'

const [name, ledger, rounds, mode] = process.argv.slice(2)

async function update(asked, lease) {
  const waited = performance.now() - asked
  const value = Number(readFileSync(ledger, 'utf8'))
  await sleep(2) // the work, in which somebody else could write
  writeFileSync(ledger, String(value + 1))
  console.log(`${name} ${lease?.token ?? 0} ${waited.toFixed(1)} ${value + 1}`)
}

const shared = lock('demo:ledger', { ttl: 2000 })
for (let round = 0; round < Number(rounds); round++) {
  const asked = performance.now()
  if (mode === 'unlocked') await update(asked)
  else await shared.withLock((lease) => update(asked, lease))
}
