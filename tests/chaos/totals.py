#!/usr/bin/env python3
"""Sums up the runs that `.cache/chaos/results.jsonl` tells of, by backend, beside what a page of proof needs of each kind."""

import json
from collections import Counter
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[2] / ".cache/chaos/results.jsonl"
WANTED = {"kills": 1000, "pauses": 1000, "partitions": 200, "leader moves": 100, "dropped answers": 10_000}
"""Over all backends; each backend that can have them has at least a quarter of its share."""
RUNS = ("runs", "seconds", "checks passed", "checks failed", "attempts", "grants")
JUDGED = ("overlaps where the backend forgot", "losers judged", "orders judged", "leases over when told")
FENCED = ("reads", "reads refused", "writes", "writes refused", "corruptions with the guard", "corruptions without the guard")
FIRST = (*RUNS, *WANTED, *JUDGED, *FENCED)


def main() -> None:
    backends: dict[str, Counter[str]] = {}
    for line in RESULTS.read_text().splitlines():
        run = json.loads(line)
        counts = backends.setdefault(run["backend"], Counter())
        counts.update({name: number for name, number in run["figures"].items() if isinstance(number, int)})
        counts.update(runs=1, seconds=int(run["seconds"]))
        counts.update({"checks passed": run["passed"], "checks failed": len(run["failed"])})
    total = sum(backends.values(), Counter())
    names = [*FIRST, *sorted(total.keys() - set(FIRST))]
    print(f"{'':<34}" + "".join(f"{backend:>10}" for backend in backends) + f"{'total':>10}{'wanted':>10}")
    for name in names:
        row = "".join(f"{counts[name]:>10}" for counts in backends.values())
        print(f"{name:<34}{row}{total[name]:>10}{WANTED.get(name, ''):>10}")


if __name__ == "__main__":
    main()
