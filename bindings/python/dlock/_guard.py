"""Notices when another project's package has taken the place of ours: the PyPI package `dlock` installs files of the same names."""

import sys

ADVICE = "pip uninstall dlock && pip install --force-reinstall dlock-engine"


def check() -> None:
    """Raises ImportError unless the package around this module is ours."""
    if getattr(sys.modules["dlock"], "__distribution__", None) != "dlock-engine":
        raise ImportError(f"dlock: the PyPI package `dlock`, another project, has overwritten files of `dlock-engine`: {ADVICE}")


check()
