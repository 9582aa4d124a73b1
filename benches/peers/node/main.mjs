// A contender in Node. What it does, and what it is asked, is in benches/README.md. Usage: main.mjs LIBRARY URL
import { createInterface } from 'node:readline'

import { libraries } from './libraries.mjs'

const [name, url] = process.argv.slice(2)
const library = await libraries[name](url)

/** Holds a lock while `body` runs. */
async function withLock(acquire, body) {
  const release = await acquire()
  try {
    return await body()
  } finally {
    await release()
  }
}

const asleep = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000))
const now = () => Number(process.hrtime.bigint()) / 1e9

async function pairs({ keys, seconds, hold = 0, pause = 0, waits: withWaits = false, stamps = false }) {
  const byTask = new Array(keys.length).fill(0)
  const [waits, granted, released] = [[], [], []]
  const lastHolder = new Map()
  let handovers = 0
  const started = performance.now()
  const end = started + seconds * 1000
  await Promise.all(
    keys.map(async (key, number) => {
      const acquire = library.lock(key, 30_000)
      for (let began = started; (began = performance.now()) < end; byTask[number]++) {
        const release = await acquire()
        if (withWaits) waits.push((performance.now() - began) / 1000)
        if (stamps) granted.push(now())
        if (lastHolder.get(key) !== number) {
          lastHolder.set(key, number)
          handovers++
        }
        if (hold) await asleep(hold)
        if (stamps) released.push(now())
        await release()
        if (pause) await asleep(pause)
      }
    }),
  )
  const sum = byTask.reduce((all, one) => all + one, 0)
  return { pairs: sum, seconds: (performance.now() - started) / 1000, handovers, by_task: byTask, waits, granted, released }
}

async function tries({ key, seconds }) {
  const tryOnce = library.tryOnce(key, 30_000)
  const started = performance.now()
  let done = 0
  for (; performance.now() < started + seconds * 1000; done++) {
    if (await tryOnce()) return { error: 'a held key was granted' }
  }
  return { tries: done, seconds: (performance.now() - started) / 1000 }
}

const works = {
  pairs,
  tries,
  async hold({ key, ttl }) {
    await library.lock(key, ttl * 1000)()
    return { held: true }
  },
  async take({ key, ttl }) {
    const asked = performance.now()
    return withLock(library.lock(key, ttl * 1000), () => ({ waited: (performance.now() - asked) / 1000 }))
  },
}

console.log(JSON.stringify({ ready: true }))
for await (const line of createInterface({ input: process.stdin })) {
  const work = JSON.parse(line)
  let answer
  try {
    if (work.do === 'tries' && !library.tryOnce) throw new Error('this library does no tries')
    answer = await works[work.do](work)
  } catch (error) {
    answer = { error: String(error) }
  }
  console.log(JSON.stringify(answer))
}
process.exit() // leases that etcd3 has given back keep the process for half a minute
