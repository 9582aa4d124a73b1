"""Rule 4: an engine whose thread ends under a program leaves nobody waiting, and the next call starts another."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("stopped.py")
# All hear of it long before a wait of their own would have ended.
SOON = 5.0


def run(face: str, url: str, what: str) -> dict[str, list[object]]:
    command = [sys.executable, str(PROGRAM), face, url, what]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 0, ended.stderr
    told: dict[str, list[object]] = json.loads(ended.stdout)
    return told


def check(told: dict[str, list[object]]) -> None:
    assert all(isinstance(after, float | int) and after < SOON for _, after in told.values()), told
    outcomes = {name: outcome for name, (outcome, _) in told.items()}
    assert [outcomes[f"waiter {number}"] for number in range(3)] == ["BackendUnavailable"] * 3, told
    # It waits for the loss on the engine that is gone.
    assert outcomes["loss"] in ("expired", "BackendUnavailable"), told
    # It may have been the first to start the new one, or have been granted its key just before the stop.
    assert outcomes.get("finder", "Lease") in ("BackendUnavailable", "LockLost", "Lease"), told
    assert outcomes["valid"] is False, told
    assert outcomes["release"] in (False, "LockLost"), told
    assert outcomes["next"] is True, told
    assert outcomes.get("again", True) is True, told
    assert outcomes["close"] == "NoneType", told
    assert outcomes["closed"] == "ClientClosed", told


@pytest.mark.parametrize("what", ["pollers", "wakers", "both", "both-unasked"])
@pytest.mark.parametrize("face", ["blocking", "awaiting"])
def test_r04_an_engine_that_stops_leaves_nobody_waiting(face: str, what: str, url: str) -> None:
    check(run(face, url, what))


@pytest.mark.parametrize("what", ["pollers", "wakers", "both"])
@pytest.mark.parametrize("backend", ["memory", "local"])
def test_r05_the_next_engine_goes_on_with_a_release(what: str, backend: str) -> None:
    """On Redis and etcd the connection was the engine's, and the key ends with its TTL."""
    url = f"{backend}:"
    told = run("releasing", url, what)
    assert (told["release"][0], told["status"][0]) in ((True, "released"), (False, "unknown"), (False, "lost")), told
    assert told["again"][0] is True, told
