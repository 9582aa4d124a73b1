// A redis-server of our own: on a free loopback port, in an empty folder, gone at the end.

import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';

const run = promisify(execFile);

const START_MS = 10_000;
const STOP_MS = 5_000;
// What a port taken between looking and binding costs: another try.
const START_ATTEMPTS = 5;

/** A server that tests may stop, freeze, kill and start again on the same port. */
export class RedisServer {
  #options;
  #folder;
  #process;
  port = 0;

  /** @param {Record<string, string>} options options of the server, such as `{ requirepass: 'secret' }` */
  constructor(options = {}) {
    this.#options = options;
  }

  /** A server that already answers. */
  static start(options) {
    return new RedisServer(options).start();
  }

  get url() {
    const password = this.#options.requirepass;
    return `redis://${password ? `:${password}@` : ''}127.0.0.1:${this.port}`;
  }

  get pid() {
    return this.#process.pid;
  }

  /** Starts the server and returns once it answers. After `kill` it comes back on its old port, empty. */
  async start() {
    this.#folder ??= await mkdtemp(join(tmpdir(), 'dlock-redis-'));
    for (let attempt = 0; attempt < START_ATTEMPTS; attempt += 1) {
      const port = this.port || (await freePort());
      this.#spawn(port);
      if (await this.#answers(port)) {
        this.port = port;
        return this;
      }
      await this.#end('SIGKILL');
    }
    throw new Error('redis-server did not start');
  }

  /** Ends the server the orderly way and removes its folder. */
  async stop() {
    await this.#end('SIGTERM');
    await rm(this.#folder, { recursive: true, force: true });
    this.#folder = undefined;
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

  /** What redis-cli prints for one command. */
  async command(...words) {
    const password = this.#options.requirepass;
    const login = password ? ['--no-auth-warning', '-a', password] : [];
    const { stdout } = await run('redis-cli', ['-p', String(this.port), ...login, ...words.map(String)], { timeout: START_MS });
    return stdout.replace(/\n$/, '');
  }

  async [Symbol.asyncDispose]() {
    await this.stop();
  }

  #spawn(port) {
    const options = { port: String(port), bind: '127.0.0.1', save: '', appendonly: 'no', dir: this.#folder, ...this.#options };
    const words = Object.entries(options).flatMap(([name, value]) => [`--${name}`, value]);
    // In the process group of the tests, so that whoever ends a stuck suite ends its servers too.
    this.#process = spawn('redis-server', words, { stdio: 'ignore' });
    this.#process.once('error', () => {}); // #answers sees that it is not there
  }

  async #answers(port) {
    const deadline = performance.now() + START_MS;
    while (performance.now() < deadline && this.#runs()) {
      // The port may have been somebody else's: then ours has ended.
      if (await pings(port)) return this.#runs();
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

function pings(port) {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => socket.write('PING\r\n'));
    socket.setTimeout(1_000, () => socket.destroy());
    socket.once('data', (answer) => {
      resolve(/^(\+PONG|-NOAUTH)/.test(answer.toString()));
      socket.destroy();
    });
    socket.once('error', () => {});
    socket.once('close', () => resolve(false));
  });
}
