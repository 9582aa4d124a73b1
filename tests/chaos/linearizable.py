"""The second opinion: the history as operations on a lock, for the linearizability checker porcupine.

An acquire took effect between being asked for and being told. What ended a lease, a release or an expiry, took effect no earlier
than the moment up to which the engine vouched for it, and for a confirmed release not after the confirmation. Porcupine searches
for an order of all these moments in which no key has two holders and tokens rise.
"""

import itertools
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from checker import Verdict
from history import NEVER, Attempt, History

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / ".cache/chaos/porcupine"
PART = 500
"""Leases that are judged together, at least: the search takes more than linear time."""


def build() -> None:
    subprocess.run([ROOT / "tools/build-go", ROOT / "tests/chaos/porcupine", PROGRAM], check=True)


def linearizable(history: History) -> Verdict:
    verdict = Verdict("porcupine finds an order")
    lines = "".join(json.dumps(operation) + "\n" for operation in operations(history))
    done = subprocess.run([PROGRAM], input=lines, capture_output=True, text=True, check=False)
    *bad, verdict.remark = [*done.stdout.splitlines(), *done.stderr.splitlines()] or [""]
    verdict.looked_at = lines.count("\n")
    if done.returncode != 0:
        verdict.violations = bad or [verdict.remark or "porcupine failed"]
    return verdict


def operations(history: History) -> Iterator[dict[str, Any]]:
    for key, leases in history.leases().items():
        for part, together in enumerate(_parts(history, leases)):
            for lease in together:
                yield from _both(history, key, part, lease)


def _parts(history: History, leases: list[Attempt]) -> Iterator[list[Attempt]]:
    """Cut where the key was surely free: after a lease that was asked for when all others had been granted, and that was released
    before anybody asked again."""
    part: list[Attempt] = []
    granted = 0.0
    asked_later = [*itertools.accumulate((lease.asked for lease in reversed(leases[1:])), min, initial=NEVER)]
    for lease, asked_next in zip(leases, reversed(asked_later), strict=True):
        part.append(lease)
        if len(part) >= PART and lease.asked > granted and end_of(history, lease)[1] < asked_next:
            yield part
            part = []
        granted = max(granted, lease.granted)
    yield part


def end_of(history: History, lease: Attempt) -> tuple[float, float]:
    """Between which moments the key became free again."""
    earliest = lease.valid_until(history.crash_release) if lease.was_valid else lease.asked
    for fault in history.faults:
        if fault.forgets and lease.asked <= fault.ended and fault.began < earliest and lease.vouched <= fault.ended + history.ttl:
            earliest = fault.began
    return earliest, lease.ended if lease.outcome == "released" else NEVER


def _both(history: History, key: str, part: int, lease: Attempt) -> Iterator[dict[str, Any]]:
    earliest, latest = end_of(history, lease)
    last = history.clock_ended + 1
    where = {"key": key, "part": part, "token": lease.token}
    yield where | {"kind": "acquire", "call": _micros(lease.asked), "return": _micros(lease.granted)}
    yield where | {"kind": "end", "call": _micros(earliest), "return": _micros(max(earliest, min(latest, last)))}


def _micros(millis: float) -> int:
    return int(millis * 1000)
