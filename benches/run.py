"""Compares dlock with the lock libraries that Python and Node programs use today, on one redis-server, in one run.

The contenders take turns, round after round, so that whatever else the machine does hits all of them; each figure is the median
of the rounds.
Usage: make bench [ROUNDS=5]
"""

import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from services import RedisServer  # noqa: E402 - found through the line above

CONTENDERS = {
    "redis-py asyncio": [sys.executable, HERE / "python_locks.py", "redis-py"],
    "dlock, Python": [sys.executable, HERE / "python_locks.py", "dlock"],
    "node-redlock": ["node", HERE / "node_locks.mjs", "redlock"],
    "redis-semaphore": ["node", HERE / "node_locks.mjs", "redis-semaphore"],
    "dlock, Node": ["node", HERE / "node_locks.mjs", "dlock"],
}
TITLES = {"sequential": "one task, µs a pair", "distinct": "500 tasks, 500 keys, pairs/s", "hot": "20 tasks, 1 key, hand-overs/s"}
ONE_ROUND_AT_MOST = 60  # seconds


def measure(command: list[str | Path], url: str) -> dict[str, float]:
    quiet = os.environ | {"DLOCK_LOG": "error"}
    done = subprocess.run([*command, url], capture_output=True, text=True, check=False, timeout=ONE_ROUND_AT_MOST, env=quiet)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr}")
    return json.loads(done.stdout)


def main() -> None:
    rounds = int(os.environ.get("ROUNDS", "5"))
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with RedisServer() as server:
        for number in range(rounds):
            for name, command in CONTENDERS.items():
                for scenario, value in measure(command, server.url).items():
                    figures[name][scenario].append(value)
            print(f"round {number + 1} of {rounds} done", file=sys.stderr, flush=True)

    median = {name: {scenario: statistics.median(values) for scenario, values in by.items()} for name, by in figures.items()}
    print(
        f"\nMedians of {rounds} rounds; a pair is an acquire and its release, a hand-over is a grant\n"
        "to another task than the one before."
    )
    print(f"{'':<20}" + "".join(f"{title:>32}" for title in TITLES.values()))
    for name, values in median.items():
        print(f"{name:<20}" + "".join(f"{values[scenario]:>32,.0f}" for scenario in TITLES))

    best_node = {s: (min if s == "sequential" else max)(median[n][s] for n in ("node-redlock", "redis-semaphore")) for s in TITLES}
    print()
    for mine, peer, title in [
        ("dlock, Python", median["redis-py asyncio"], "redis-py"),
        ("dlock, Node", best_node, "the better of the two Node peers"),
    ]:
        ratios = [
            peer[scenario] / median[mine][scenario] if scenario == "sequential" else median[mine][scenario] / peer[scenario]
            for scenario in TITLES
        ]
        listed = ", ".join(f"{TITLES[scenario]} {ratio:.1f}" for scenario, ratio in zip(TITLES, ratios, strict=True))
        print(f"{mine}, as many times as fast as {title}: {listed}")


if __name__ == "__main__":
    main()
