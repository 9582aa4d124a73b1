"""The demo counts what it promises to count, and the recording of it in the documentation is of this demo."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CAST = ROOT / "docs/pictures/demo.cast"


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("locks")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DLOCK_")} | {"DLOCK_DIR": str(folder)}
    demo = [sys.executable, ROOT / "examples/demo/run.py"]
    return subprocess.run(demo, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


@pytest.fixture(scope="module")
def recorded() -> str:
    events = map(json.loads, CAST.read_text().splitlines()[1:])
    return "".join(text for _, _, text in events).replace("\r\n", "\n")


def row(text: str, title: str) -> list[str]:
    (line,) = re.findall(rf"^{title} +(.*)$", text, re.MULTILINE)
    return str(line).split()


def test_no_update_is_lost_under_the_lock_and_some_are_without(printed: str) -> None:
    locked, unlocked = map(int, row(printed, "updates lost"))
    assert locked == 0
    assert unlocked > 0
    assert row(printed, "tokens strictly rising") == ["yes", "-"]


def shapes(text: str) -> set[str]:
    """The lines without what differs between two runs: figures, and the order in which workers come."""
    return {" ".join(re.sub(r"\d+", "0", line).split()) for line in text.splitlines()}


def test_the_recording_is_of_this_demo(printed: str, recorded: str) -> None:
    assert shapes(recorded) == shapes(printed) | {"$ make demo"}, "record it again: make pictures"


def test_the_recording_fits_its_terminal(recorded: str) -> None:
    head = json.loads(CAST.read_text().partition("\n")[0])
    assert max(map(len, recorded.splitlines())) <= head["width"]
