'use strict';

// Signs of life: an event loop that runs says so, for the leases that end when it does not.

const { clearInterval, setInterval } = require('node:timers');
const { bridge } = require('./completion.js');

/** Signs in the time that `maxStall` allows without one. */
const SIGNS = 4;

/** By their numbers: nothing here keeps a lease reachable. */
const leases = new Set();
let every = Infinity;
let timer;

/** For as long as the lease is held. The timer runs only while there is such a lease, and keeps no process alive. */
function giveSigns(id, maxStall) {
  leases.add(id);
  if (maxStall / SIGNS >= every) return;
  every = maxStall / SIGNS;
  clearInterval(timer);
  timer = setInterval(beat, every).unref();
}

function beat() {
  for (const id of leases) if (!bridge.heartbeat(id)) leases.delete(id);
  if (leases.size > 0) return;
  clearInterval(timer);
  every = Infinity;
}

module.exports = { giveSigns };
