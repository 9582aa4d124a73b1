// The libraries, each loaded only when it is asked for. `lock` makes a function that acquires and returns what releases; `tryOnce` one that
// tries without waiting.
import { createConnection } from 'node:net'
import { join } from 'node:path'

const held = [] // a lease that nobody refers to would be given back

/** Whether `acquire` was granted; `isBusy` says which of its errors tell that the key is held. */
async function granted(acquire, isBusy) {
  try {
    await acquire()
    return true
  } catch (error) {
    if (isBusy(error)) return false
    throw error
  }
}

async function dlock(url) {
  const { Client } = await import('../../../bindings/node/index.mjs')
  const client = new Client(url)
  return {
    lock: (key, ttl) => {
      const lock = client.lock(key, { ttl })
      held.push(lock)
      return async () => {
        const lease = await lock.acquire()
        return () => lease.release()
      }
    },
    tryOnce: (key, ttl) => {
      const lock = client.lock(key, { ttl })
      return async () => (await lock.tryAcquire()) !== null
    },
  }
}

async function redlock(url) {
  const { Redis } = await import('ioredis')
  const library = await import('redlock')
  const Redlock = library.default?.default ?? library.default
  const client = new Redlock([new Redis(url)], { retryCount: -1 })
  const once = new Redlock([new Redis(url)], { retryCount: 0 })
  return {
    lock: (key, ttl) => async () => {
      const lock = await client.acquire([key], ttl)
      return () => lock.release()
    },
    tryOnce: (key, ttl) => () => granted(() => once.acquire([key], ttl), (error) => error.name === 'ExecutionError'),
  }
}

async function redisSemaphore(url) {
  const { Redis } = await import('ioredis')
  const { Mutex } = await import('redis-semaphore')
  const server = new Redis(url)
  return {
    lock: (key, ttl) => async () => {
      const mutex = new Mutex(server, key, { lockTimeout: ttl, acquireTimeout: 60_000 })
      await mutex.acquire()
      return () => mutex.release()
    },
    tryOnce: (key, ttl) => () => new Mutex(server, key, { lockTimeout: ttl, acquireAttemptsLimit: 1 }).tryAcquire(),
  }
}

async function etcd3(url) {
  const { Etcd3 } = await import('etcd3')
  const server = new Etcd3({ hosts: url.replace('etcd:', 'http:') })
  const acquire = (key, ttl) => server.lock(key).ttl(ttl / 1000).acquire()
  return {
    // It does not wait: whoever wants to tries again. 10 ms, as redis-semaphore does.
    lock: (key, ttl) => async () => {
      for (;;) {
        try {
          const lock = await acquire(key, ttl)
          return () => lock.release()
        } catch (error) {
          if (error.constructor.name !== 'EtcdLockFailedError') throw error
          await new Promise((done) => setTimeout(done, 10))
        }
      }
    },
    tryOnce: (key, ttl) => () => granted(() => acquire(key, ttl), (error) => error.constructor.name === 'EtcdLockFailedError'),
  }
}

async function properLockfile(url) {
  const { default: lockfile } = await import('proper-lockfile')
  const folder = new URL(url).pathname
  const options = { realpath: false }
  // Its own pauses between tries, which double from 1 s, are for rare contention: 10 ms here.
  const retries = { forever: true, minTimeout: 10, factor: 1 }
  // It makes a folder with the suffix `.lock`, where other libraries have a file of that name.
  const file = (key) => join(folder, `folder-${key}`)
  return {
    lock: (key) => () => lockfile.lock(file(key), { ...options, retries }),
    tryOnce: (key) => () => granted(() => lockfile.lock(file(key), options), (error) => error.code === 'ELOCKED'),
  }
}

/** The limit: two round trips, `SET … NX PX` and `DEL`, over a socket of its own, with nothing around them. No lock. */
async function raw(url) {
  const { hostname, port } = new URL(url)
  const packed = (...words) => `*${words.length}\r\n${words.map((word) => `$${word.length}\r\n${word}\r\n`).join('')}`
  return {
    lock: (key) => {
      let answered
      const onread = { buffer: Buffer.alloc(1024), callback: () => answered() }
      const socket = createConnection({ host: hostname, port, noDelay: true, onread })
      const ask = (request) => new Promise((done) => ((answered = done), socket.write(request)))
      const [set, del] = [packed('SET', `raw-${key}`, 'value', 'NX', 'PX', '30000'), packed('DEL', `raw-${key}`)]
      return async () => {
        await ask(set)
        return () => ask(del)
      }
    },
  }
}

export const libraries = { dlock, redlock, 'redis-semaphore': redisSemaphore, etcd3, 'proper-lockfile': properLockfile, raw }
