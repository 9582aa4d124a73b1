// One contender of the comparison, in Node: prints its figures as JSON. Usage: node_locks.mjs dlock|redlock|redis-semaphore URL
import { Client } from 'dlock-engine'
import { Redis } from 'ioredis'
import * as redlock from 'redlock'
import { Mutex } from 'redis-semaphore'

const MS = 2000
const TTL = 30_000

// Each makes a function that acquires and returns what releases.
const contenders = {
  dlock(url) {
    const client = new Client(url)
    return {
      make: (key) => {
        const lock = client.lock(key, { ttl: TTL })
        return async () => {
          const lease = await lock.acquire()
          return () => lease.release()
        }
      },
      end: () => client.close(),
    }
  },
  redlock(url) {
    const server = new Redis(url)
    const Redlock = redlock.default?.default ?? redlock.default
    const client = new Redlock([server], { retryCount: -1 })
    return {
      make: (key) => async () => {
        const lock = await client.acquire([key], TTL)
        return () => lock.release()
      },
      end: () => server.quit(),
    }
  },
  'redis-semaphore'(url) {
    const server = new Redis(url)
    return {
      make: (key) => async () => {
        const mutex = new Mutex(server, key, { lockTimeout: TTL, acquireTimeout: 60_000 })
        await mutex.acquire()
        return () => mutex.release()
      },
      end: () => server.quit(),
    }
  },
}

/** Pairs a second, and hand-overs from one task to another a second, of one task for each entry of `keys`, all going at once. */
async function pairs(make, keys) {
  const started = performance.now()
  const lastHolder = new Map()
  let done = 0
  let handedOver = 0
  await Promise.all(
    keys.map(async (key, number) => {
      const acquire = make(key)
      while (performance.now() < started + MS) {
        const release = await acquire()
        if (lastHolder.get(key) !== number) handedOver++
        lastHolder.set(key, number)
        await release()
        done++
      }
    }),
  )
  const seconds = (performance.now() - started) / 1000
  return { pairs: done / seconds, handovers: handedOver / seconds }
}

const [contender, url] = process.argv.slice(2)
const { make, end } = contenders[contender](url)
await pairs(make, ['warm'])
const figures = {
  sequential: 1e6 / (await pairs(make, ['one'])).pairs,
  distinct: (await pairs(make, Array.from({ length: 500 }, (_, n) => `key-${n}`))).pairs,
  hot: (await pairs(make, Array(20).fill('hot'))).handovers,
}
console.log(JSON.stringify(figures))
await end()
