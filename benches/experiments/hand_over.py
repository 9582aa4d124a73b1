"""A key on one machine that goes from one process to another and back, against what the kernel needs to wake a process."""

import itertools
import os
import time
from typing import Any

from contenders import DLOCK, LOCAL, Contender
from report import Section, Table
from rounds import median, note, opened, spread
from worker import ContenderFailed, Worker

SECONDS = 1.0
HOLD = 0.004
PEERS = ("filelock", "portalocker", "proper-lockfile")


def measure(rounds: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number in range(rounds):
        found.setdefault("the kernel", {}).setdefault("µs", []).append(1e6 * woken_by_kernel())
        for one in [one for one in LOCAL.contenders if one in DLOCK[:3] or one.name in PEERS]:
            if not one.is_there:
                continue
            try:
                value = handed_over(one)
            except ContenderFailed as failure:
                if one.kind == "dlock":
                    raise
                note(f"hand-over: {failure}")
                continue
            found.setdefault(one.name, {}).setdefault("µs", []).append(1e6 * value)
        note(f"hand-over: round {number + 1} of {rounds}")
    return found


def woken_by_kernel() -> float:
    """Seconds to wake another process by a byte in a pipe, out of many there and back again."""
    (theirs, to_them), (ours, to_us) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(to_them)
        while os.read(theirs, 1):
            os.write(to_us, b"x")
        os._exit(0)
    os.close(theirs)
    started, count = time.monotonic(), 0
    while time.monotonic() < started + SECONDS:
        os.write(to_them, b"x")
        os.read(ours, 1)
        count += 1
    elapsed = time.monotonic() - started
    os.close(to_them)
    os.waitpid(child, 0)
    os.close(ours)
    os.close(to_us)
    return elapsed / count / 2


def handed_over(one: Contender) -> float:
    """Seconds between the begin of a release in one process and the grant in the other, which waits for it."""
    with opened(LOCAL) as (url, _), Worker(one, url) as first, Worker(one, url) as second:
        pair = (first, second)
        for worker in pair:
            worker.ask(do="pairs", keys=["warm"], seconds=0.1)
        for worker in pair:
            worker.begin(do="pairs", keys=["hot"], seconds=SECONDS, hold=HOLD, pause=HOLD / 2, stamps=True)
        answers = [worker.answer(SECONDS) for worker in pair]
    times = between(answers)
    if not times:
        raise ContenderFailed(f"{one.name}: the key never went from process to process")
    return median(times)


def between(answers: list[dict[str, Any]]) -> list[float]:
    """How long after the last release of one process the other was granted the key."""
    events = sorted(
        [(at, "released", number) for number, answer in enumerate(answers) for at in answer["released"]]
        + [(at, "granted", number) for number, answer in enumerate(answers) for at in answer["granted"]]
    )
    pairs = itertools.pairwise(events)
    return [
        after[0] - before[0]
        for before, after in pairs
        if (before[1], after[1]) == ("released", "granted") and before[2] != after[2]
    ]


def present(figures: dict[str, Any]) -> Section:
    rows = [[name, spread(values["µs"])] for name, values in figures.items()]
    text = (
        "Two processes want the same key. Each keeps it for 4 ms, so that the other one waits. The figure is the time between "
        "the begin of the release in one process and the grant in the other. *The kernel* is what waking another process by a "
        "byte in a pipe takes; it is the limit."
    )
    return Section("From process to process", text, [Table(["one machine: a hand-over", "µs"], rows)])
