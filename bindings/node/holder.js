'use strict';

/** A holder as the engine describes it, with `since` as a `Date`. */
function holderOf({ since, ...holder }) {
  return { ...holder, since: since === null ? null : new Date(since) };
}

function inspectionOf({ holder, ...inspection }) {
  return { ...inspection, holder: holder && holderOf(holder) };
}

module.exports = { holderOf, inspectionOf };
