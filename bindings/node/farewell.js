'use strict';

// What is done when this environment exits: one listener of the process for it, however often this package is evaluated in it (Jest's
// `resetModules`, hot reload, two versions side by side).

/** Under this name the first one leaves the function that adds to the list. A function, because Jest copies the objects that it finds. */
const SHARED = Symbol.for('dlock-engine.atExit');

process[SHARED] ??= listOfEnds();

function listOfEnds() {
  const ends = [];
  process.on('exit', () => {
    for (const end of ends) end();
  });
  return (end) => void ends.push(end);
}

/** Has `end` called when this environment exits. It must not throw. */
const atExit = process[SHARED];

module.exports = { atExit };
