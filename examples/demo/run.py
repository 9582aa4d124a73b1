"""The demo: Python, Node and shell workers share one ledger file, with dlock and without it.

Each worker reads the number in the ledger, works for two milliseconds and writes the number plus one. Nine workers do that at
the same time; one more is killed with `kill -9` while it holds the lock. Runs on `local:`, or on whatever DLOCK_URL names.
"""

import asyncio
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ROUNDS = 10
WORKERS_OF_EACH = 3
COMMANDS = {"python": [sys.executable, HERE / "worker.py"], "node": ["node", HERE / "worker.mjs"], "shell": [HERE / "worker.sh"]}
SECONDS_AT_MOST = 120


@dataclass
class Update:
    """One line that a worker printed while it held the key."""

    at: float
    worker: str
    token: int
    waited: float
    ledger: int
    crashed: bool


@dataclass
class Outcome:
    updates: list[Update] = field(default_factory=list)
    ledger: int = 0
    broken: list[str] = field(default_factory=list)
    """Workers that ended in an error nobody planned."""

    @property
    def made(self) -> int:
        return sum(not update.crashed for update in self.updates)

    @property
    def lost(self) -> int:
        return self.made - self.ledger

    @property
    def in_order(self) -> list[Update]:
        """As the ledger saw them. The lines of different workers may reach us in another order."""
        return sorted(self.updates, key=lambda update: update.ledger + update.crashed / 2)

    @property
    def tokens_rise(self) -> bool:
        return all(earlier.token < later.token for earlier, later in pairwise(self.in_order))

    @property
    def healed_after(self) -> float | None:
        """Seconds from the crash to the next holder's first word."""
        return next((later.at - earlier.at for earlier, later in pairwise(self.in_order) if earlier.crashed), None)


async def work(language: str, name: str, mode: str, ledger: Path, outcome: Outcome) -> None:
    """Runs one worker and shows what it says, as it says it."""
    command = [*COMMANDS[language], name, ledger, ROUNDS, mode]
    worker = await asyncio.create_subprocess_exec(*map(str, command), stdout=asyncio.subprocess.PIPE, env=environment())
    assert worker.stdout is not None
    async for line in worker.stdout:
        who, token, waited, value, *crash = line.decode().split()
        update = Update(time.monotonic(), who, int(token), float(waited), int(value), bool(crash))
        outcome.updates.append(update)
        if mode != "unlocked":
            says = "killed by kill -9" if update.crashed else value
            print(f"{who:<9}{token:>16}{update.waited:>8.1f} ms   {says}", flush=True)
    if await worker.wait() != 0 and mode != "crash":
        outcome.broken.append(name)


def environment() -> dict[str, str]:
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return {**os.environ, "PATH": f"{target / 'release'}:{os.environ['PATH']}"}


async def run(mode: str, folder: Path) -> Outcome:
    ledger, outcome = folder / f"ledger-{mode}", Outcome()
    ledger.write_text("0")
    names = [(language, f"{language}-{n}") for n in range(1, WORKERS_OF_EACH + 1) for language in COMMANDS]
    workers = [work(language, name, mode, ledger, outcome) for language, name in names]
    if mode == "locked":
        workers.append(work("python", "crasher", "crash", ledger, outcome))
    async with asyncio.timeout(SECONDS_AT_MOST):
        await asyncio.gather(*workers)
    outcome.ledger = int(ledger.read_text() or 0)
    return outcome


def main() -> int:
    where = os.environ.get("DLOCK_URL") or "local:"
    each = WORKERS_OF_EACH
    print(f"{each} Python, {each} Node and {each} shell workers update one file\nunder one lock on {shown(where)}\n")
    print(f"{'worker':<9}{'fencing token':>16}{'waited':>11}   ledger", flush=True)
    with tempfile.TemporaryDirectory(prefix="dlock-demo-") as folder:
        locked = asyncio.run(run("locked", Path(folder)))
        print("\nThe same work without the lock ...\n", flush=True)
        unlocked = asyncio.run(run("unlocked", Path(folder)))

    rows = [
        ("updates made", locked.made, unlocked.made),
        ("the ledger says", locked.ledger, unlocked.ledger),
        ("updates lost", locked.lost, unlocked.lost),
        ("tokens strictly rising", "yes" if locked.tokens_rise else "NO", "-"),
        ("holder killed, key free again", f"{(locked.healed_after or 0) * 1000:.0f} ms", "-"),
    ]
    print(f"{'':<31}{'with dlock':>12}{'without':>11}")
    for title, with_dlock, without in rows:
        print(f"{title:<31}{with_dlock:>12}{without:>11}")
    for name in locked.broken + unlocked.broken:
        print(f"{name} failed", file=sys.stderr)
    good = locked.lost == 0 and locked.tokens_rise and locked.healed_after is not None and not locked.broken
    return 0 if good and unlocked.lost > 0 else 1


def shown(url: str) -> str:
    """The URL without its password."""
    scheme, found, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if found else url


if __name__ == "__main__":
    sys.exit(main())
