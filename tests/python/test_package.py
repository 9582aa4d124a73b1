"""What is imported is ours: the PyPI package `dlock` is another project's and installs files of the same names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import dlock

PACKAGE = Path(dlock.__file__).parent


def imported(folder: Path, statement: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(folder)}
    # Without site-packages: there the real one would be found.
    done = subprocess.run([sys.executable, "-S", "-c", statement], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    return done.stderr


def link_package(folder: Path, without: str) -> None:
    (folder / "dlock").mkdir()
    for file in PACKAGE.iterdir():
        if not file.name.startswith(without) and file.name != "__pycache__":
            (folder / "dlock" / file.name).symlink_to(file)


@pytest.mark.parametrize("foreign", ["VERSION = '0.2'", None], ids=["overwritten", "uninstalled"])
@pytest.mark.parametrize("module", ["dlock.sync", "dlock.errors"])
def test_a_foreign_package_in_our_place_is_named(tmp_path: Path, foreign: str | None, module: str) -> None:
    link_package(tmp_path, without="__init__")
    if foreign is not None:
        (tmp_path / "dlock/__init__.py").write_text(foreign)
    said = imported(tmp_path, f"import {module}")
    assert "ImportError: dlock: the PyPI package `dlock`, another project, has overwritten" in said


def test_a_missing_extension_is_explained(tmp_path: Path) -> None:
    link_package(tmp_path, without="_native")
    assert "pip install --force-reinstall dlock-engine" in imported(tmp_path, "import dlock")


def test_everything_public_is_there() -> None:
    assert all(hasattr(dlock, name) for name in dlock.__all__)
    assert all(hasattr(dlock.sync, name) for name in dlock.sync.__all__)
    assert dlock.__version__.count(".") == 2
