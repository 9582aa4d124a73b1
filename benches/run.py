"""Compares dlock with the lock libraries that Python, Node and Go programs use today, on one server, in one run.

The contenders take turns, round after round, so that whatever else the machine does hits all of them; each figure is the median
of the rounds.
Usage: make bench [ROUNDS=5] [SERVERS="redis etcd"]
"""

import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = HERE.parent / ".cache/benches"
sys.path.insert(0, str(HERE.parent / "tests"))

from services import EtcdServer, RedisServer, ServerProcess  # noqa: E402 - found through the line above

ONE_ROUND_AT_MOST = 60  # seconds
PYTHON, NODE = [sys.executable, HERE / "python_locks.py"], ["node", HERE / "node_locks.mjs"]

Command = list[str | Path]
Figures = dict[str, float]


@dataclass(frozen=True)
class Contest:
    """Who meets on which server."""

    server: Callable[[], ServerProcess]
    contenders: dict[str, Command]
    """Each is given the server's URL and the scenarios, and prints a figure for each."""
    scenarios: dict[str, str]
    """A scenario and what its figure is."""
    rivals: list[tuple[str, str, list[str]]]
    """One of ours, and the peers whose best it is held against, with what to call them."""
    remark: str
    preparation: Path | None = None
    """Brings contenders that our own environments do not hold."""


CONTESTS = {
    "redis": Contest(
        RedisServer,
        {
            "redis-py asyncio": [*PYTHON, "redis-py"],
            "dlock, Python": [*PYTHON, "dlock"],
            "node-redlock": [*NODE, "redlock"],
            "redis-semaphore": [*NODE, "redis-semaphore"],
            "dlock, Node": [*NODE, "dlock"],
        },
        {"one": "one task, µs a pair", "keys:500": "500 tasks, 500 keys, pairs/s", "hot:20": "20 tasks, 1 key, hand-overs/s"},
        [
            ("dlock, Python", "redis-py", ["redis-py asyncio"]),
            ("dlock, Node", "the better of the two Node peers", ["node-redlock", "redis-semaphore"]),
        ],
        "a pair is an acquire and its release, a hand-over is a grant to another task than the one before",
    ),
    "etcd": Contest(
        partial(EtcdServer, durable=True),
        {
            "etcd3, Python": [PEERS / "etcd3/bin/python", HERE / "etcd3_locks.py"],
            "dlock, Python": [*PYTHON, "dlock"],
            "etcd3, Node": [*NODE, "etcd3"],
            "dlock, Node": [*NODE, "dlock"],
            "concurrency.Mutex, Go": [PEERS / "go_mutex"],
        },
        {"one": "one task, µs a pair", "keys:64": "64 tasks, 64 keys, pairs/s"},
        [
            (mine, peer, [peer])
            for mine in ("dlock, Python", "dlock, Node")
            for peer in ("etcd3, Python", "etcd3, Node", "concurrency.Mutex, Go")
        ],
        "one member, which waits for its disk as by default",
        HERE.parent / "tools/setup-etcd-peers",
    ),
}


def measure(command: Command, url: str, scenarios: list[str]) -> Figures:
    quiet = os.environ | {"DLOCK_LOG": "error"}
    words = [*command, url, *scenarios]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=ONE_ROUND_AT_MOST, env=quiet)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, words))} failed:\n{done.stderr}")
    figures: Figures = json.loads(done.stdout)
    return figures


def medians(contest: Contest, rounds: int) -> dict[str, Figures]:
    if contest.preparation:
        subprocess.run([contest.preparation], check=True)
    seen: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with contest.server() as server:
        for number in range(rounds):
            for name, command in contest.contenders.items():
                for scenario, value in measure(command, server.url, [*contest.scenarios]).items():
                    seen[name][scenario].append(value)
            print(f"round {number + 1} of {rounds} done", file=sys.stderr, flush=True)
    return {name: {scenario: statistics.median(values) for scenario, values in by.items()} for name, by in seen.items()}


def times_as_fast(scenario: str, mine: float, peers: list[float]) -> float:
    """As the best of the peers. One task is measured in time, all else in speed."""
    return min(peers) / mine if scenario == "one" else mine / max(peers)


def show(name: str, contest: Contest, rounds: int, median: dict[str, Figures]) -> None:
    print(f"\n{name}: medians of {rounds} rounds; {contest.remark}.")
    print(f"{'':<22}" + "".join(f"{title:>32}" for title in contest.scenarios.values()))
    for contender, figures in median.items():
        print(f"{contender:<22}" + "".join(f"{figures[scenario]:>32,.0f}" for scenario in contest.scenarios))
    print()
    for mine, title, peers in contest.rivals:
        listed = ", ".join(
            f"{what} {times_as_fast(scenario, median[mine][scenario], [median[peer][scenario] for peer in peers]):.1f}"
            for scenario, what in contest.scenarios.items()
        )
        print(f"{mine}, as many times as fast as {title}: {listed}")


def main(names: list[str]) -> None:
    rounds = int(os.environ.get("ROUNDS", "5"))
    for name in names or CONTESTS:
        show(name, CONTESTS[name], rounds, medians(CONTESTS[name], rounds))


if __name__ == "__main__":
    main(sys.argv[1:])
