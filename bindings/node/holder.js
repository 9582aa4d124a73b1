'use strict';

/** Who holds a key, as the engine tells it, with a date for people. */
function holderOf({ since, ...holder }) {
  return { ...holder, since: since === null ? null : new Date(since) };
}

function inspectionOf({ holder, ...inspection }) {
  return { ...inspection, holder: holder && holderOf(holder) };
}

module.exports = { holderOf, inspectionOf };
