"""What events and metrics cost while 10,000 leases are held and 500 tasks cycle: on and off in turns, one process a language.

Usage: .venv/bin/python benches/observing.py [ROUNDS=5]
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from services import RedisServer  # noqa: E402 - found through the line above

PROGRAMS = {
    "Rust": ["cargo", "bench", "--quiet", "-p", "dlock-engine", "--bench", "observing", "--"],
    "Python": [sys.executable, str(HERE / "python_observing.py")],
    "Node": ["node", str(HERE / "node_observing.mjs")],
}


def cost(off: float, on: float) -> str:
    return f"{100 * (on / off - 1):+.1f} %"


def main() -> None:
    rounds = os.environ.get("ROUNDS", "5")
    for language, command in PROGRAMS.items():
        with RedisServer() as server:
            done = subprocess.run(
                [*command, server.url, rounds], capture_output=True, text=True, check=False, timeout=600, cwd=HERE.parent
            )
        if done.returncode != 0:
            sys.exit(done.stderr)
        seen = json.loads(done.stdout.splitlines()[-1])
        (off, cpu_off), (on, cpu_on) = (map(statistics.median, zip(*seen[name], strict=True)) for name in ("off", "on"))
        print(
            f"{language}: {off:,.0f} pairs/s unobserved, {on:,.0f} observed: {cost(off, on)}; "
            f"CPU time a pair {cpu_off:.2f} and {cpu_on:.2f} us: {cost(cpu_off, cpu_on)} "
            f"({seen['events']:,} events, {seen['dropped']} dropped)",
            flush=True,
        )


if __name__ == "__main__":
    main()
