"""Explains why the package cannot be loaded: another project's files overwrote it, or its extension is not for this system.

The PyPI package `dlock` is another project and installs files of the same names.
"""

import platform
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

ADVICE = "pip uninstall dlock && pip install --force-reinstall dlock-engine"

# The messages of the systems' loaders, and what they mean. The first that fits counts.
REASONS = (
    (("GLIBC_", "GLIBCXX_"), "it is built for a newer C library than this system has"),
    (
        ("ld-linux", "ld-musl", "libc.so", "libc.musl", "libgcc_s"),
        "it is built for another C library (glibc or musl) than this system has",
    ),
    (("wrong ELF class", "incompatible architecture", "not a valid Win32", "Exec format"), "it is built for another processor"),
    (("undefined symbol", "symbol not found", "Symbol not found"), "it is built for another Python or C library"),
    (
        ("failed to map segment", "Operation not permitted", "Permission denied"),
        "the system does not let programs be loaded from there: a file system that is mounted noexec, or a security policy",
    ),
    (("invalid ELF header", "file too short", "not a mach-o"), "the file is damaged"),
)


def check() -> None:
    """Raises ImportError if another project has overwritten the package around this module."""
    if getattr(sys.modules["dlock"], "__distribution__", None) != "dlock-engine":
        raise ImportError(f"dlock: the PyPI package `dlock`, another project, has overwritten files of `dlock-engine`: {ADVICE}")


def explained(error: ImportError) -> str:
    """Explains why the extension cannot be loaded: the cause first, then what may help."""
    here = f"{platform.python_implementation()} {platform.python_version()} on {platform.system()} {platform.machine()}"
    c_library = " ".join(platform.libc_ver()).strip()
    here = f"{here} with {c_library}" if c_library else here
    head = "dlock: the extension module dlock._native cannot be loaded"
    if isinstance(error, ModuleNotFoundError) and error.name == "dlock._native":
        folder = Path(__file__).parent
        there = ", ".join(sorted(file.name for file in folder.glob("_native*") if file.suffix != ".pyi"))
        what = f"{folder} has {there}, which is for another Python or system" if there else f"it is not in {folder}"
        text = f"{head}: {what}. This is {here}; pip install --force-reinstall dlock-engine fetches what there is for it"
    else:
        reason = next((reason for signs, reason in REASONS if any(sign in str(error) for sign in signs)), None)
        text = f"{head}: {error}." + (f" That means that {reason}." if reason else "") + f" This is {here}"
    if _other_project_is_installed():
        text += f". The PyPI package `dlock`, another project, is installed and overwrites files of `dlock-engine`: {ADVICE}"
    return text


def _other_project_is_installed() -> bool:
    try:
        distribution("dlock")
    except PackageNotFoundError:
        return False
    return True


check()
