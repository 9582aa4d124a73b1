'use strict';

// Runs functions when this environment exits. The process gets one listener for them, however often the package is evaluated (Jest's `resetModules`,
// hot reload, two versions side by side).

/** The first copy of the package stores here the function that adds to the list. A function, because Jest copies objects. */
const SHARED = Symbol.for('dlock-engine.atExit');

process[SHARED] ??= listOfEnds();

function listOfEnds() {
  const ends = [];
  process.on('exit', () => {
    for (const end of ends) end();
  });
  return (end) => void ends.push(end);
}

/** Calls `end` when this environment exits. `end` must not throw. */
const atExit = process[SHARED];

module.exports = { atExit };
