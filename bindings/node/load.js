'use strict';

// Loads the engine, or throws an error that explains why it cannot be loaded.

const { closeSync, openSync, readSync, readdirSync } = require('node:fs');
const { join } = require('node:path');

// e_machine in the head of an ELF file.
const machines = { 3: 'ia32', 40: 'arm', 62: 'x64', 183: 'arm64', 243: 'riscv64' };

// The messages of the systems' loaders, and what they mean.
const reasons = [
  [/GLIBC(XX)?_/, 'it is built for a newer C library than this system has'],
  [/ld-linux|ld-musl|libc\.so|libc\.musl|libgcc_s/, 'it is built for another C library (glibc or musl) than this system has'],
  [/wrong ELF class|incompatible architecture|not a valid Win32|Exec format/i, 'it is built for another processor'],
  [/undefined symbol|symbol not found/i, 'it is built for another Node or C library'],
  [
    /failed to map segment|Operation not permitted|Permission denied/,
    'the system does not let programs be loaded from there: a file system that is mounted noexec, or a security policy',
  ],
  [/invalid ELF header|file too short|not a mach-o/i, 'the file is damaged'],
];

/** The C library of this system, as part of a sentence; empty where there is only one. */
function cLibrary() {
  if (process.platform !== 'linux') return '';
  const glibc = process.report?.getReport?.().header?.glibcVersionRuntime;
  return glibc ? ` with glibc ${glibc}` : ' with musl';
}

/** Which system a library is for, as far as the head of its file shows. */
function builtFor(file) {
  const head = Buffer.alloc(20);
  try {
    const open = openSync(file);
    readSync(open, head, 0, head.length, 0);
    closeSync(open);
  } catch {
    return 'cannot be read';
  }
  if (head.toString('latin1', 0, 4) === '\x7fELF') return `is for linux-${machines[head.readUInt16LE(18)] ?? 'another processor'}`;
  if (head.toString('latin1', 0, 2) === 'MZ') return 'is for win32';
  return [0xfeedfacf, 0xbebafeca].includes(head.readUInt32LE(0)) ? 'is for darwin' : 'is no library';
}

function explained(error) {
  const here = `This is Node ${process.version} on ${process.platform}-${process.arch}${cLibrary()}`;
  const there = readdirSync(__dirname).filter((name) => name.endsWith('.node'));
  const found = there.map((name) => `${name} ${builtFor(join(__dirname, name))}`).join(', ') || 'there is none';
  const reason = reasons.find(([sign]) => sign.test(error.message))?.[1];
  const cause = error.code === 'MODULE_NOT_FOUND' ? `it is not in ${__dirname}` : error.message.trim();
  const parts = [`dlock: native.node cannot be loaded: ${cause}`, reason && `That means that ${reason}`, `${here}; of what is there, ${found}`];
  return Object.assign(new Error(parts.filter(Boolean).join('. '), { cause: error }), { code: error.code });
}

try {
  // A literal name, so that bundlers find the file.
  module.exports = require('./native.node');
} catch (error) {
  throw explained(error);
}
