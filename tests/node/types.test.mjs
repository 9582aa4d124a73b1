// The declarations compile in programs of every make.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { cp, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const root = fileURLToPath(new URL('../..', import.meta.url));
const tsc = join(root, 'node_modules/typescript/bin/tsc');

const plain = `
import { Client, InvalidOptions, lock, withLock, type Lease } from 'dlock-engine';
export async function main(client: Client): Promise<number> {
  const lease: Lease = await lock('k', { ttl: 30_000 }).acquire({ signal: AbortSignal.timeout(100) });
  lease.signal.addEventListener('abort', () => {});
  const disposable: AsyncDisposable = lease;
  await disposable[Symbol.asyncDispose]();
  // @ts-expect-error a number
  const wrong: string = lease.token;
  if (new InvalidOptions('words').field === wrong) return 0;
  return client.withLock('k', async ({ token }) => token) ?? withLock('k', () => 1);
}
`;
const using = `${plain}
export async function scoped(client: Client): Promise<number> {
  await using held = await client.lock('k').acquire();
  return held.token;
}
`;

/** What is compiled, and how. Each also without \`skipLibCheck\`: our declarations must agree with everybody else's. */
const programs = {
  'es2022 and dom, without @types/node': [plain, { lib: ['es2022', 'dom'], types: [] }, ['mts', 'cts']],
  'es2022 and dom, bundled': [plain, { lib: ['es2022', 'dom'], types: [], module: 'preserve', moduleResolution: 'bundler' }],
  '@types/node alone': [plain, { lib: ['es2022'], types: ['node'] }],
  'await using with @types/node': [using, { lib: ['es2022', 'esnext.disposable'], types: ['node'] }],
  'await using under esnext and dom': [using, { target: 'esnext', lib: ['esnext', 'dom'], types: [] }],
  'await using under everything': [using, { target: 'esnext', lib: ['esnext', 'dom'], types: ['node'], module: 'preserve', moduleResolution: 'bundler' }],
};

describe('the declarations compile', { timeout: 120_000 }, () => {
  let folder;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'dlock-types-'));
    // As npm installs it, without what lies beside it in this tree.
    const installed = join(folder, 'node_modules/dlock-engine');
    await mkdir(join(installed, 'bindings/node'), { recursive: true });
    for (const file of ['package.json', 'bindings/node/index.d.ts', 'bindings/node/observe.d.ts']) await cp(join(root, file), join(installed, file));
    await symlink(join(root, 'node_modules/@types'), join(folder, 'node_modules/@types'));
    await symlink(join(root, 'node_modules/undici-types'), join(folder, 'node_modules/undici-types'));
  });
  after(() => rm(folder, { recursive: true, force: true }));

  for (const [name, [program, options, extensions = ['mts']]] of Object.entries(programs)) {
    for (const extension of extensions) {
      test(`${name}: ${extension}`, async () => {
        const file = join(folder, `${name.replaceAll(/\W+/g, '-')}.${extension}`);
        await writeFile(file, program);
        const compilerOptions = { target: 'es2022', module: 'nodenext', strict: true, noEmit: true, skipLibCheck: false, ...options };
        await writeFile(`${file}.json`, JSON.stringify({ compilerOptions, files: [file] }));
        const run = await promisify(execFile)(process.execPath, [tsc, '--project', `${file}.json`]).catch((failed) => failed);
        assert.equal(`${run.stdout}${run.stderr}`, '');
      });
    }
  }
});
