"""One task whose server is a network away: 0.3 ms each way.

The network is one of our own, of two namespaces with a relay between them that keeps each packet for so long. It is made by a
program of its
own, which enters a namespace and never leaves it.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from contenders import REDIS
from report import Picture, Section, Table
from rounds import note, take_turns, warmed, workers

from experiments.one_task import bar, pair, row
from services import RedisServer

DELAY = 0.0003
HERE = Path(__file__).resolve().parent.parent


def measure(rounds: int) -> dict[str, Any]:
    if not can_have_namespaces():
        note("no network namespaces here: no figures for a distant server")
        return {}
    program = [sys.executable, HERE / "distant_network.py", str(DELAY), sys.executable, "-m", "experiments.distance", str(rounds)]
    done = subprocess.run(["unshare", "--net", *map(str, program)], stdout=subprocess.PIPE, text=True, cwd=HERE, check=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def can_have_namespaces() -> bool:
    try:
        return (
            subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode == 0
            and Path("/dev/net/tun").exists()
        )
    except FileNotFoundError:
        return False


class DistantRedis(RedisServer):
    """Started at the other end of the network."""

    def __init__(self, host: str, enter: list[str]) -> None:
        super().__init__(protected_mode="no")
        self.host, self.enter = host, enter


def measure_here(rounds: int, host: str, enter: list[str]) -> dict[str, Any]:
    """On a machine that has the network."""
    with DistantRedis(host, enter) as server, workers(REDIS.contenders, server.url) as working:
        return take_turns(warmed(working, 0.3), rounds, pair, "one task, a distant Redis")


def present(figures: dict[str, Any]) -> Section:
    if not figures:
        return Section("A server far away", "The machine of this run has no network namespaces.")
    found = {"quiet": figures, "busy": {}}
    there = [one for one in REDIS.contenders if one.name in figures]
    columns = ["Redis, 0.3 ms away: one task", "µs a pair", "of them µs of processor", "", "to the limit", "to the best peer"]
    rows = [row(one, found) for one in there]
    for each in rows:
        del each[3]
    del columns[3]
    picture = Picture(
        "distance", "One task, Redis 0.3 ms away", "", "µs a pair", [bar(one, figures[one.name]["µs"]) for one in there]
    )
    text = (
        "As *One task*, on a quiet machine, with a network between client and server that keeps each packet for 0.3 ms. Two "
        "round trips then take at least 1,200 µs, and what is left over for a library to lose is little."
    )
    return Section("A server far away", text, [Table(columns, rows)], [picture])


if __name__ == "__main__":
    print(json.dumps(measure_here(int(sys.argv[1]), sys.argv[2], sys.argv[3:])))
