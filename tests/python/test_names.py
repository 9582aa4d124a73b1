"""`tools/check-names` finds a type name that stands more than once, and nothing else: on sources made up for it."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools/check-names"


def check(folder: Path, files: dict[str, str]) -> tuple[int, list[str]]:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    ran = subprocess.run([sys.executable, TOOL, folder], capture_output=True, text=True, check=False)
    assert not ran.stderr
    return ran.returncode, ran.stdout.splitlines()


@pytest.mark.parametrize(
    "second", ["enum Lease {}", "pub trait Lease {}", "pub(crate) type Lease = u8;", "fn f() { struct Lease; }"]
)
def test_a_name_that_stands_twice_is_found(tmp_path: Path, second: str) -> None:
    code, lines = check(tmp_path, {"a.rs": "pub struct Lease;\n", "b/c.rs": f"\n{second}\n"})
    assert (code, lines[0]) == (1, "`Lease` is defined more than once: a.rs:1, b/c.rs:2")


@pytest.mark.parametrize(
    "second",
    [
        "use crate::a::Lease;",
        "// struct Lease;",
        'const TEXT: &str = "struct Lease";',
        "#[cfg(test)]\nmod tests {\n    struct Lease;\n}",
        "impl Iterator for Other { type Lease = u8; }",
        "pub struct LeaseState;",
    ],
)
def test_a_name_that_stands_once_is_not(tmp_path: Path, second: str) -> None:
    files = {"a.rs": "pub struct Lease;\n", "b.rs": second, "b_tests.rs": "struct Lease;", "b/tests.rs": "struct Lease;"}
    assert check(tmp_path, files)[0] == 0
