// A server of our own: on a free loopback port, in an empty folder, gone at the end.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

export const START_MS = 10_000;
const STOP_MS = 5_000;
// What a port taken between looking and binding costs: another try.
const START_ATTEMPTS = 5;

/**
 * A server that tests may stop, freeze, kill and start again on the same port. Who extends it says what the `program` is, the
 * words that it is started with, `commandLine(port)`, and whether it is ready, `serves(port)`.
 */
export class ServerProcess {
  #process;
  folder;
  port = 0;

  /** A server that already answers. */
  static start(options) {
    return new this(options).start();
  }

  get pid() {
    return this.#process.pid;
  }

  /** Starts the server and returns once it answers. After `kill` it comes back on its old port. */
  async start() {
    this.folder ??= await mkdtemp(join(tmpdir(), `dlock-${this.program}-`));
    for (let attempt = 0; attempt < START_ATTEMPTS; attempt += 1) {
      const port = this.port || (await freePort());
      await this.#spawn(port);
      if (await this.#answers(port)) {
        this.port = port;
        return this;
      }
      await this.#end('SIGKILL');
    }
    throw new Error(`${this.program} did not start`);
  }

  /** Ends the server the orderly way and removes its folder. */
  async stop() {
    await this.#end('SIGTERM');
    await rm(this.folder, { recursive: true, force: true });
    this.folder = undefined;
  }

  /** Ends the server as a crash would. */
  async kill() {
    await this.#end('SIGKILL');
  }

  freeze() {
    this.#process.kill('SIGSTOP');
  }

  thaw() {
    this.#process.kill('SIGCONT');
  }

  async [Symbol.asyncDispose]() {
    await this.stop();
  }

  async #spawn(port) {
    // In the process group of the tests, so that whoever ends a stuck suite ends its servers too.
    this.#process = spawn(this.program, await this.commandLine(port), { stdio: 'ignore' });
    this.#process.once('error', () => {}); // #answers sees that it is not there
  }

  async #answers(port) {
    const deadline = performance.now() + START_MS;
    while (performance.now() < deadline && this.#runs()) {
      // The port may have been somebody else's: then ours has ended.
      if (await this.serves(port)) return this.#runs();
      await delay(10);
    }
    return false;
  }

  #runs() {
    return this.#process?.pid !== undefined && this.#process.exitCode === null && this.#process.signalCode === null;
  }

  async #end(signal) {
    if (this.#runs()) {
      const exited = once(this.#process, 'exit');
      const late = setTimeout(() => this.#process.kill('SIGKILL'), STOP_MS);
      this.#process.kill('SIGCONT');
      this.#process.kill(signal);
      await exited;
      clearTimeout(late);
    }
    this.#process = undefined;
  }
}

/** A loopback port that nobody used a moment ago. */
export async function freePort() {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address();
  probe.close();
  await once(probe, 'close');
  return port;
}
