"""One Python worker: adds 1 to the number in the ledger, ROUNDS times, under the lock or without it."""

import asyncio
import os
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import dlock

name, ledger, rounds, mode = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]


async def main() -> None:
    lock = dlock.lock("demo:ledger", ttl=2)
    for number in range(rounds):
        asked = time.monotonic()
        async with nullcontext() if mode == "unlocked" else lock as lease:
            waited = (time.monotonic() - asked) * 1000
            value = int(ledger.read_text() or 0)  # without the lock it may be empty: somebody is writing
            if mode == "crash" and number == rounds // 2 and lease:
                print(f"{name} {lease.token} {waited:.1f} {value} crash", flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            await asyncio.sleep(0.002)  # the work, in which somebody else could write
            ledger.write_text(str(value + 1))
            print(f"{name} {lease.token if lease else 0} {waited:.1f} {value + 1}", flush=True)


asyncio.run(main())
