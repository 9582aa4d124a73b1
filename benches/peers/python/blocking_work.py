"""What a library that blocks is asked to do: each task is a thread."""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

from record import Pairs, Record


@dataclass(frozen=True)
class Library:
    lock: Callable[[str, float], AbstractContextManager[object]]
    """A lock that one thread can use again and again, for a key and a TTL in seconds."""
    try_once: Callable[[str], Callable[[], bool]] | None = None
    """Tries to acquire a key without waiting."""


def do(library: Library, held: ExitStack, work: dict[str, Any]) -> dict[str, Any]:
    match work["do"]:
        case "pairs":
            return pairs(library, Pairs.of(work))
        case "hold":
            held.enter_context(library.lock(work["key"], work["ttl"]))
            return {"held": True}
        case "take":
            asked = time.monotonic()
            with library.lock(work["key"], work["ttl"]):
                return {"waited": time.monotonic() - asked}
        case "tries" if library.try_once:
            return tries(library.try_once(work["key"]), work["seconds"])
    return {"error": f"this library does no {work['do']}"}


def pairs(library: Library, asked: Pairs) -> dict[str, Any]:
    failed: list[BaseException] = []

    def task(number: int, key: str) -> None:
        lock = library.lock(key, 30)
        while (began := time.monotonic()) < end:
            with lock:
                record.granted(number, key, began)
                if asked.hold:
                    time.sleep(asked.hold)
                record.releases()
            record.by_task[number] += 1
            if asked.pause:
                time.sleep(asked.pause)

    def run(number: int, key: str) -> None:
        try:
            task(number, key)
        except BaseException as error:
            failed.append(error)

    record = Record(asked)
    end = record.started + asked.seconds
    if len(asked.keys) == 1:
        task(0, asked.keys[0])
    else:
        threads = [threading.Thread(target=run, args=each) for each in enumerate(asked.keys)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failed:
        raise failed[0]
    return record.answer()


def tries(try_once: Callable[[], bool], seconds: float) -> dict[str, Any]:
    done = 0
    started = time.monotonic()
    while time.monotonic() < started + seconds:
        if try_once():
            return {"error": "a held key was granted"}
        done += 1
    return {"tries": done, "seconds": time.monotonic() - started}
