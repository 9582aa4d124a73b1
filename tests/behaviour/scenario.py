"""Scenarios as they stand in the YAML files, and which of them fit where."""

import math
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

LANGUAGES = ("rust", "python", "node")


@dataclass(frozen=True)
class Backend:
    """What sets the backends apart, as far as scenarios go."""

    abilities: frozenset[str]
    ttl_floor: float = 0.0
    """The shortest TTL, in ms. Scenarios with a shorter one are played slower."""
    expiry_lag: float = 0.0
    """How long the server may take, in ms, to notice that a TTL is over."""
    margin: float = 0.0
    """How much earlier than on other backends, in ms, a lease is no longer vouched for."""
    turns: int = 3
    """How often at most a mixed run deals the languages anew for one scenario."""


# A memory: store ends at its process. Our redis-server forgets at its restart; our etcd keeps what it had.
BACKENDS = {
    "memory": Backend(frozenset({"fair", "queue"})),
    "local": Backend(frozenset({"crash-release", "prompt-skip", "processes"})),
    "redis": Backend(frozenset({"fair", "queue", "expiry", "heartbeat", "prompt-skip", "processes", "server", "forgets"})),
    "etcd": Backend(
        frozenset({"fair", "queue", "expiry", "processes", "server", "keeps", "ttl-floor"}),
        ttl_floor=2000.0,
        # It looks twice a second.
        expiry_lag=500.0,
        margin=50.0,
        # Its TTLs are slow to wait for. Each language still plays each part, in one scenario or another.
        turns=1,
    ),
}

CLIENTS = frozenset(string.ascii_lowercase)
SERVER_STEPS = frozenset({"server", "proxy", "monitor"})
DURATION = re.compile(r"(-?[0-9.]+)(us|ms|s|m|h)")
UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0, "h": 3_600_000.0}

Step = dict[str, Any]


@dataclass(frozen=True)
class Scenario:
    """One promise and the steps that show it."""

    name: str
    file: str
    steps: list[Step]
    rule: str = ""
    needs: frozenset[str] = frozenset()
    languages: tuple[str, ...] = LANGUAGES
    """The languages in which the promise exists at all."""
    clients: dict[str, dict[str, Any]] = field(default_factory=dict)
    processes: str = "any"
    """`own`: each client must have a process of its own; `same`: all must share one; `any`: own ones where the backend can."""
    alone: bool = False
    """Measures time: nothing else runs meanwhile. What is counted on a server of its own is nobody else's."""
    turns: int = 1
    """How many times a mixed run deals the languages: three where each must play each part."""

    def flat(self) -> Iterator[Step]:
        """The steps, with those that stand inside of others."""
        for step in self.steps:
            yield step
            yield from step.get("do", ())

    def uses_server(self) -> bool:
        return any(SERVER_STEPS & set(step) for step in self.flat())

    def all_clients(self) -> list[str]:
        named = {name for step in self.flat() for name in (*step, *step.get("contend", ()), *step.get("storm", ""))}
        return sorted(CLIENTS & named)

    def process_of(self, client: str, backend: str) -> str:
        """Clients with the same answer share a process."""
        if self.processes == "same" or (self.processes == "any" and "processes" not in BACKENDS[backend].abilities):
            return "one"
        return str(self.clients.get(client, {}).get("process", client))

    def wanted(self) -> set[str]:
        wanted = set(self.needs)
        if self.processes == "own":
            wanted.add("processes")
        if self.uses_server():
            wanted.add("server")
        return wanted

    def fits(self, backend: str) -> bool:
        return self.wanted() <= BACKENDS[backend].abilities | {backend}

    def misfit(self, mode: str, backend: str) -> str:
        """Why this scenario is not for this mode and backend; empty if it is."""
        if reason := self.out_of_place(mode):
            return reason
        abilities = BACKENDS[backend].abilities
        missing = self.wanted() - abilities - {backend}
        if mode == "mixed":
            missing |= {"processes"} - abilities
        return f"needs {', '.join(sorted(missing))}" if missing else ""

    def pace(self, backend: str) -> float:
        """How many times slower it is played, so that its shortest TTL is one that the backend has."""
        meant = (step["ttl"] for step in self.flat() if "ttl" in step and "INVALID_OPTIONS" not in str(step.get("expect")))
        shortest = min((milliseconds(ttl) for ttl in meant if DURATION.fullmatch(str(ttl))), default=math.inf)
        return max(1.0, BACKENDS[backend].ttl_floor / shortest)

    def out_of_place(self, mode: str) -> str:
        """Why this scenario is not for this mode, whatever the backend."""
        if mode == "mixed":
            if len(self.all_clients()) < 2:
                return "has one client"
            return "is about one language" if self.processes == "same" or set(self.languages) != set(LANGUAGES) else ""
        pinned = {options["language"] for options in self.clients.values() if "language" in options}
        return "is not about this language" if mode not in self.languages or pinned - {mode} else ""

    def cast(self, mode: str, turn: int) -> dict[str, str]:
        """Which language plays which client; `turn` deals them differently."""
        pinned = {client: options["language"] for client, options in self.clients.items() if "language" in options}
        if mode != "mixed":
            return dict.fromkeys(self.all_clients(), mode) | pinned
        dealt = {client: self.languages[(turn + at) % len(self.languages)] for at, client in enumerate(self.all_clients())}
        return dealt | pinned


def load(folder: Path) -> list[Scenario]:
    """All scenarios of a folder; ones that could never run, or share a name, are an error."""
    scenarios = [scenario for file in sorted(folder.glob("*.yaml")) for scenario in _of_file(file)]
    names = [scenario.name for scenario in scenarios]
    for scenario in scenarios:
        if names.count(scenario.name) > 1:
            raise ValueError(f"{scenario.file}: two scenarios are called {scenario.name!r}")
        if not any(scenario.fits(backend) for backend in BACKENDS):
            raise ValueError(f"{scenario.file}: no backend can run {scenario.name!r}")
    return scenarios


def _of_file(file: Path) -> Iterator[Scenario]:
    for entry in yaml.safe_load(file.read_text()):
        if unknown := set(entry) - {each.name for each in fields(Scenario)}:
            raise ValueError(f"{file.name}: {entry['name']!r} has unknown entries: {unknown}")
        read = {
            "needs": frozenset(entry.get("needs", ())),
            "languages": tuple(entry.get("languages", LANGUAGES)),
        }
        yield Scenario(**(entry | read), file=file.name)


def milliseconds(text: Any) -> float:
    """`"100ms"`, `"2s"`; numbers are in milliseconds already."""
    if isinstance(text, int | float):
        return float(text)
    if found := DURATION.fullmatch(text):
        return float(found[1]) * UNITS[found[2]]
    raise ValueError(f"{text!r} is no duration")
