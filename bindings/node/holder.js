'use strict';

/** Who holds a key, as the engine tells it, with a date for people. */
function holderOf({ since, ...holder }) {
  return { ...holder, since: since === null ? null : new Date(since) };
}

function inspectionOf({ key, holder, queue }) {
  return { key, holder: holder && holderOf(holder), queue };
}

module.exports = { holderOf, inspectionOf };
