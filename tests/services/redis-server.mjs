// A redis-server of our own. It keeps nothing: after `kill` it comes back empty.

import { execFile } from 'node:child_process';
import { connect } from 'node:net';
import { promisify } from 'node:util';
import { START_MS, ServerProcess } from './server-process.mjs';

const run = promisify(execFile);

export class RedisServer extends ServerProcess {
  #options;
  program = 'redis-server';

  /** @param {Record<string, string>} options options of the server, such as `{ requirepass: 'secret' }` */
  constructor(options = {}) {
    super();
    this.#options = options;
  }

  get url() {
    const password = this.#options.requirepass;
    return `redis://${password ? `:${password}@` : ''}127.0.0.1:${this.port}`;
  }

  /** What redis-cli prints for one command. */
  async command(...words) {
    const password = this.#options.requirepass;
    const login = password ? ['--no-auth-warning', '-a', password] : [];
    const { stdout } = await run('redis-cli', ['-p', String(this.port), ...login, ...words.map(String)], { timeout: START_MS });
    return stdout.replace(/\n$/, '');
  }

  commandLine(port) {
    const options = { port: String(port), bind: '127.0.0.1', save: '', appendonly: 'no', dir: this.folder, ...this.#options };
    return Object.entries(options).flatMap(([name, value]) => [`--${name}`, value]);
  }

  serves(port) {
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
}
