"""Reads the history of a run: what workers were told and when, and what was done to them. All times are of one clock."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NEVER = float("inf")


@dataclass
class Attempt:
    """One try to get a key, and the lease if it got one."""

    life: str
    """The process that made it: `w3.1` is the first one in the place `w3`."""
    number: int
    key: str
    mode: str
    """`wait`, or `unfair`, `cancel` and `try`."""
    asked: float
    ended: float = NEVER
    """When it failed or was cancelled, or when its lease was released or not at all."""
    outcome: str = ""
    token: int = 0
    owner: str = ""
    granted: float = NEVER
    """The worker had the lease at this moment, if not before."""
    vouched: float = 0.0
    """The greatest time up to which the engine vouched for the lease, as the worker read it."""
    renewed: float = 0.0
    """When it was last seen valid."""
    lost: float = NEVER
    """When the worker was told of the loss."""
    releasing: float = NEVER
    """Just before it gave the lease back."""
    died: float = NEVER
    """When its process was killed, at the earliest."""

    @property
    def was_granted(self) -> bool:
        return self.granted < NEVER

    @property
    def was_valid(self) -> bool:
        """Some leases are over before their holder can look: it was frozen between the engine's look at the clock and its own."""
        return self.vouched > self.granted

    def valid_until(self, crash_release: bool) -> float:
        """Up to here nobody else may have the key. A dead holder's lease lasts, where its death alone frees nothing."""
        return min(self.vouched, self.lost, self.releasing, self.died if crash_release else NEVER)

    def __str__(self) -> str:
        return f"{self.life}#{self.number} (token {self.token})"


@dataclass
class Fault:
    kind: str
    began: float
    ended: float
    who: str
    server: bool
    forgets: bool
    ahead: float = 0.0
    """By how many milliseconds it set the server's clock: keys end that much earlier, or later."""

    def touches(self, life: str, proxied: bool) -> bool:
        return self.server or self.who == life or (self.who == "proxied" and proxied)


@dataclass
class Sighting:
    """Who waited for a key, in which order, at some moment between two."""

    key: str
    asked: float
    seen: float
    owners: list[str]


@dataclass
class History:
    facts: dict[str, Any]
    attempts: list[Attempt] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    sightings: list[Sighting] = field(default_factory=list)
    end: dict[str, Any] = field(default_factory=dict)
    clock_ended: float = 0.0

    @property
    def ttl(self) -> float:
        return float(self.facts["ttl"])

    @property
    def crash_release(self) -> bool:
        return bool(self.facts["crash_release"])

    def leases(self) -> dict[str, list[Attempt]]:
        """Those that were granted, by key, in the order of their grants."""
        found: dict[str, list[Attempt]] = {}
        for attempt in sorted((each for each in self.attempts if each.was_granted), key=lambda each: each.granted):
            found.setdefault(attempt.key, []).append(attempt)
        return found

    def proxied(self, life: str) -> bool:
        return bool(self.facts["workers"].get(life.partition(".")[0], {}).get("proxied"))

    def disturbed(self, life: str, since: float, until: float) -> bool:
        """Whether anything went wrong for this worker in that time."""
        proxied = self.proxied(life)
        return any(fault.began <= until and fault.ended >= since and fault.touches(life, proxied) for fault in self.faults)


def read(folder: Path) -> History:
    history = History(json.loads((folder / "run.json").read_text()))
    for entry in _lines(folder / "faults.jsonl"):
        history.faults.append(
            Fault(entry["e"], entry["t"], entry["done"], entry["who"], entry["server"], entry["forgets"], entry.get("ahead", 0.0)),
        )
    for file in sorted(folder.glob("w*.jsonl")):
        _read_worker(history, file)
    _mark_deaths(history)
    end = folder / "end.json"
    history.end = json.loads(end.read_text()) if end.exists() else {"complaints": ["the run did not reach its end"]}
    return history


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """A process that was killed may have left half a line, at the very end."""
    lines = file.read_bytes().split(b"\n") if file.exists() else []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            yield json.loads(line)
        except ValueError:
            if number != len(lines):
                raise


def _read_worker(history: History, file: Path) -> None:
    attempts: dict[int, Attempt] = {}
    for line in _lines(file):
        history.clock_ended = max(history.clock_ended, line["t"])
        match line["e"]:
            case "ask":
                attempts[line["n"]] = Attempt(file.stem, line["n"], line["k"], line["m"], line["t"])
            case "queue":
                history.sightings.append(Sighting(line["k"], line["asked"], line["t"], line["owners"]))
            case _ if "n" in line:
                _note(attempts[line["n"]], line)
    history.attempts += attempts.values()


def _note(attempt: Attempt, line: dict[str, Any]) -> None:
    match line["e"]:
        case "grant":
            attempt.granted, attempt.token, attempt.owner = line["at"], line["token"], line["owner"]
            attempt.vouched, attempt.renewed = line["until"], line["at"]
        case "held":
            attempt.vouched, attempt.renewed = max(attempt.vouched, line["until"]), line["at"]
        case "lost":
            attempt.lost = min(attempt.lost, line["t"])
        case "releasing":
            attempt.releasing = line["t"]
        case "released":
            attempt.ended, attempt.outcome = line["t"], line["status"]
        case "failed":
            attempt.ended, attempt.outcome = line["t"], line["code"]
        case "cancelled":
            attempt.ended, attempt.outcome = line["t"], "CANCELLED"


def _mark_deaths(history: History) -> None:
    deaths = {fault.who: fault.began for fault in history.faults if fault.kind == "worker killed"}
    for attempt in history.attempts:
        attempt.died = deaths.get(attempt.life, NEVER)
