'use strict';

// Heartbeats: while the event loop runs, it confirms the leases that have `maxStall` and would end without heartbeats.

const { clearInterval, setInterval } = require('node:timers');
const { bridge } = require('./completion.js');

/** The leases' numbers: a reference would keep the lease reachable. */
const leases = new Set();
let every = Infinity;
let timer;

/** Sends heartbeats for as long as the lease is held. The timer runs only while there is such a lease, and does not keep the process alive. */
function sendHeartbeats(id) {
  leases.add(id);
  const wanted = bridge.heartbeatEvery(id) ?? Infinity;
  if (wanted >= every) return;
  every = wanted;
  clearInterval(timer);
  timer = setInterval(beat, every).unref();
}

function beat() {
  for (const id of leases) if (!bridge.heartbeat(id)) leases.delete(id);
  if (leases.size > 0) return;
  clearInterval(timer);
  every = Infinity;
}

module.exports = { sendHeartbeats };
