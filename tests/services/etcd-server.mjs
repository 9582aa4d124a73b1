// An etcd of our own, alone in its cluster. It keeps its data: after `kill` it comes back with all that it had.

import { join } from 'node:path';
import { ServerProcess, freePort } from './server-process.mjs';

export class EtcdServer extends ServerProcess {
  #peerPort;
  program = 'etcd';

  get url() {
    return `etcd://127.0.0.1:${this.port}`;
  }

  /** At once: an orderly end waits for the clients that are still there. */
  async stop() {
    await this.kill();
    await super.stop();
  }

  async commandLine(port) {
    // Once there is data it belongs to this address.
    if (!this.port) this.#peerPort = await freePort();
    const client = `http://127.0.0.1:${port}`;
    const peer = `http://127.0.0.1:${this.#peerPort}`;
    const options = {
      name: 'alone',
      'data-dir': join(this.folder, 'data'),
      'listen-client-urls': client,
      'advertise-client-urls': client,
      'listen-peer-urls': peer,
      'initial-advertise-peer-urls': peer,
      'initial-cluster': `alone=${peer}`,
      logger: 'zap',
      'log-level': 'error',
    };
    // What tests kill is a process, not a machine.
    return ['--unsafe-no-fsync', ...Object.entries(options).flatMap(([name, value]) => [`--${name}`, value])];
  }

  async serves(port) {
    try {
      const answer = await fetch(`http://127.0.0.1:${port}/health`, { signal: AbortSignal.timeout(1_000) });
      return (await answer.json()).health === 'true';
    } catch {
      return false;
    }
  }
}
