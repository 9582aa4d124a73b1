// Measures both ways from a tokio task to a JavaScript promise, in turns; prints µs per operation, one list per way.
// Usage: measure.mjs LIBRARY ROUNDS IN_FLIGHT

const OPERATIONS = 20_000; // a round
const [library, rounds, inFlight] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];

const native = load(library);

function load(path) {
  const module = { exports: {} };
  process.dlopen(module, path);
  return module.exports;
}

function completionQueue() {
  const pending = new Map();
  const ids = new Uint32Array(inFlight);
  const completions = new native.Completions(() => {
    const count = completions.drain(ids);
    for (let at = 0; at < count; at += 1) {
      const resolve = pending.get(ids[at]);
      pending.delete(ids[at]);
      resolve();
    }
  });
  let last = 0;
  return () =>
    new Promise((resolve) => {
      last += 1;
      pending.set(last, resolve);
      completions.start(last);
    });
}

async function oneRound(call) {
  const task = async () => {
    for (let done = 0; done < OPERATIONS / inFlight; done += 1) await call();
  };
  const started = performance.now();
  await Promise.all(Array.from({ length: inFlight }, task));
  return ((performance.now() - started) / OPERATIONS) * 1e3;
}

// Neither a promise nor the weak function keeps the loop alive.
const anchor = setInterval(() => {}, 2 ** 31 - 1);
const ways = { library: native.byLibrary, queue: completionQueue() };
const taken = { library: [], queue: [] };
for (let number = 0; number <= rounds; number += 1) {
  for (const [name, call] of Object.entries(ways)) {
    const micros = await oneRound(call);
    if (number > 0) taken[name].push(micros); // the first warms up
  }
}
clearInterval(anchor);
console.log(JSON.stringify(taken));
