'use strict';

// Reads the answers of lone requests: from the socket of a client, on the thread of the event loop that asked. The engine parses them.

const { closeSync } = require('node:fs');
const { Socket } = require('node:net');

const LARGEST = 16384;
const NOTHING = new Uint8Array(0);

/** The sockets that this loop reads, by number, and the call whose answer comes next. @type {Map<number, {call: number | undefined}>} */
const reading = new Map();

/**
 * Reads the answer of a call. A loop that cannot leaves the call to the engine.
 * @param {import('./native.js').Bridge} bridge
 * @param {number} id the call's number
 * @param {(id: number, progress: number) => void} report takes how far the call has got
 */
function readFor(bridge, id, report) {
  const number = bridge.socket(id);
  // The engine has taken the call over by now.
  if (number === undefined || number === null) return;
  const known = reading.get(number);
  if (known !== undefined) known.call = id;
  else start(bridge, number, id, report);
}

function start(bridge, number, id, report) {
  const reader = { call: id };
  const feed = (bytes) => {
    bridge.feed(number, bytes);
    const { call } = reader;
    if (call === undefined) return;
    const progress = bridge.goOn(call);
    // What is delivered may ask again, and set another call.
    if (progress !== ON_SOCKET) reader.call = undefined;
    report(call, progress);
  };
  // Nothing if the engine has taken the call over a moment ago.
  const fd = bridge.openSocket(id) ?? undefined;
  if (fd === undefined) return;
  try {
    const callback = (count, buffer) => {
      feed(buffer.subarray(0, count));
      return true;
    };
    const onread = { buffer: new Uint8Array(LARGEST), callback };
    const socket = new Socket({ fd, readable: true, writable: false, onread });
    reading.set(number, reader);
    socket.on('error', () => {});
    socket.on('close', () => {
      reading.delete(number);
      feed(NOTHING);
    });
    // A pending call keeps the loop alive by itself.
    socket.unref();
    socket.resume();
  } catch {
    closeSync(fd);
    bridge.cannotRead(id);
  }
}

const ON_SOCKET = 2;

module.exports = { readFor };
