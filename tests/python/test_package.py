"""What is imported is ours: the PyPI package `dlock` is another project's and installs files of the same names."""

import os
import platform
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import dlock
from dlock import _guard

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


FOREIGN = "another project"


def test_a_missing_extension_is_explained(tmp_path: Path) -> None:
    link_package(tmp_path, without="_native")
    said = imported(tmp_path, "import dlock").splitlines()[-1]
    assert said.startswith("ImportError: dlock: the extension module dlock._native cannot be loaded: it is not in "), said
    assert "pip install --force-reinstall dlock-engine" in said
    assert platform.python_version() in said
    assert FOREIGN not in said


def test_an_extension_of_another_python_is_named(tmp_path: Path) -> None:
    link_package(tmp_path, without="_native")
    (tmp_path / "dlock/_native.cp27-none.so").write_bytes(b"")
    said = imported(tmp_path, "import dlock").splitlines()[-1]
    assert "_native.cp27-none.so, which is for another Python or system" in said
    assert FOREIGN not in said


def test_an_extension_that_cannot_be_loaded_is_headlined_by_its_cause(tmp_path: Path) -> None:
    link_package(tmp_path, without="_native")
    extension = tmp_path / f"dlock/_native{EXTENSION_SUFFIXES[0]}"
    head = bytearray(Path(dlock._native.__file__).read_bytes()[:4096])
    extension.write_bytes(b"not an extension")
    said = imported(tmp_path, "import dlock").splitlines()[-1]
    assert said.startswith(f"ImportError: dlock: the extension module dlock._native cannot be loaded: {extension}: "), said
    assert "the file is damaged" in said
    assert FOREIGN not in said
    head[4] = 1  # a class of 32 bits
    extension.write_bytes(head)
    said = imported(tmp_path, "import dlock").splitlines()[-1]
    assert "wrong ELF class" in said
    assert "built for another processor" in said
    assert FOREIGN not in said


def test_the_other_project_is_named_where_it_is_installed(tmp_path: Path) -> None:
    link_package(tmp_path, without="_native")
    (tmp_path / "dlock-0.2.dist-info").mkdir()
    (tmp_path / "dlock-0.2.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: dlock\nVersion: 0.2\n")
    said = imported(tmp_path, "import dlock").splitlines()[-1]
    assert FOREIGN in said
    assert "pip uninstall dlock" in said


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ("/lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.34' not found (required by _native.abi3.so)", "a newer C library"),
        ("Error loading shared library ld-linux-x86-64.so.2: No such file or directory", "another C library"),
        ("_native.abi3.so: failed to map segment from shared object", "noexec"),
        ("_native.abi3.so: undefined symbol: PyObject_Fresh", "another Python"),
        ("incompatible architecture (have 'x86_64', need 'arm64')", "another processor"),
        ("the moon is full", ""),
    ],
)
def test_what_a_loader_says_comes_first_and_is_explained(told: str, meant: str) -> None:
    said = _guard.explained(ImportError(told))
    assert said.startswith(f"dlock: the extension module dlock._native cannot be loaded: {told}. ")
    assert meant in said


def test_everything_public_is_there() -> None:
    assert all(hasattr(dlock, name) for name in dlock.__all__)
    assert all(hasattr(dlock.sync, name) for name in dlock.sync.__all__)
    assert dlock.__version__.count(".") == 2
