"""Runs samples in Rust: as doctests of one page that is made of them, one after the other."""

import json
import os
import re
import subprocess
import tempfile
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

from samples.fences import Sample

# A test that is built with all that a sample may use. Of the same packages as the engine's suite, so that nothing is built twice.
PACKAGES = ["--workspace", "--exclude", "dlock-behaviour", "--exclude", "dlock-chaos"]
BUILD = ["cargo", "test", "--quiet", "--locked", *PACKAGES, "--test", "queue", "--no-run", "--message-format=json"]
CRATES = ["dlock", "tokio", "tracing"]
RESULT = re.compile(r"^test .*\(line (\d+)\).* \.\.\. (ok|FAILED|ignored)", re.MULTILINE)


def run(samples: Sequence[Sample], root: Path, seconds: float) -> tuple[list[str], str]:
    """How each sample ended, and what was printed. It ended well if the word is `ok`."""
    page, starts = "", []
    for sample in samples:
        starts.append(page.count("\n") + 1)
        page += f"```rust{sample.remarks}\n{sample.text}```\n\n"
    with tempfile.TemporaryDirectory(prefix="dlock-samples-") as name:
        folder = Path(name)
        (folder / "samples.md").write_text(page)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DLOCK_")}
        done = subprocess.run(
            ["rustdoc", "--test", "samples.md", "--edition", "2024", *crates(root), "--test-args", "--test-threads=1"],
            cwd=folder,
            env=kept | {"DLOCK_DIR": str(folder / "locks")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds * len(samples),
            check=False,
        )
    ended = {bisect_right(starts, int(line)) - 1: word for line, word in RESULT.findall(done.stdout)}
    return [ended.get(number, "did not run") for number in range(len(samples))], done.stdout


def crates(root: Path) -> list[str]:
    """Tells rustdoc where the crates are that a sample may use. Builds them."""
    environment = {"PROTOC": str(root / ".venv/bin/protoc")} | os.environ
    built = subprocess.run(BUILD, cwd=root, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
    messages = [json.loads(line) for line in built.stdout.splitlines()]
    made = [each for each in messages if each["reason"] == "compiler-artifact" and each["target"]["name"] in CRATES]
    # What is built for build scripts has fewer features.
    made.sort(key=lambda each: len(each["features"]))
    files = {each["target"]["name"]: file for each in made for file in each["filenames"] if file.endswith(".rlib")}
    folder = Path(files["tokio"]).parent
    return ["-L", f"dependency={folder}", *(word for crate in CRATES for word in ("--extern", f"{crate}={files[crate]}"))]
