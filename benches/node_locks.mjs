// One contender of the comparison, in Node: prints its figures as JSON.
// Usage: node_locks.mjs dlock|redlock|redis-semaphore|etcd3 URL SCENARIO...

const MS = 2000
const TTL = 30_000

// Each loads what it needs, and makes a function that acquires and returns what releases.
const contenders = {
  async dlock(url) {
    const { Client } = await import('dlock-engine')
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
  async redlock(url) {
    const { Redis } = await import('ioredis')
    const redlock = await import('redlock')
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
  async 'redis-semaphore'(url) {
    const { Redis } = await import('ioredis')
    const { Mutex } = await import('redis-semaphore')
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
  async etcd3(url) {
    const { Etcd3 } = await import('etcd3')
    const server = new Etcd3({ hosts: url.replace('etcd:', 'http:') })
    return {
      make: (key) => async () => {
        const lock = await server.lock(key).ttl(TTL / 1000).acquire()
        return () => lock.release()
      },
      end: () => server.close(),
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

/** The figure that a scenario is about: `one`, `keys:N` or `hot:N` with N tasks. */
async function figure(make, scenario) {
  const [kind, tasks] = scenario.split(':')
  if (kind === 'one') return 1e6 / (await pairs(make, ['one'])).pairs
  if (kind === 'keys') return (await pairs(make, Array.from({ length: tasks }, (_, n) => `key-${n}`))).pairs
  if (kind === 'hot') return (await pairs(make, Array(Number(tasks)).fill('hot'))).handovers
  throw new Error(`no scenario ${scenario}`)
}

const [contender, url, ...scenarios] = process.argv.slice(2)
const { make, end } = await contenders[contender](url)
await pairs(make, ['warm'])
const figures = {}
for (const scenario of scenarios) figures[scenario] = await figure(make, scenario)
console.log(JSON.stringify(figures))
await end()
process.exit() // leases that etcd3 has given back keep the process for half a minute
