"""Warnings that point at the line of the user's program."""

import os
import sys
import warnings
from collections.abc import Iterable

import dlock._guard  # noqa: F401

_HERE = os.path.dirname(sys._getframe().f_code.co_filename) + os.sep


def warn_caller(message: str, category: type[Warning], source: object = None) -> None:
    """Warns at the nearest line outside the package, however many calls inside the package lie between."""
    level = 2
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(_HERE) and frame.f_back is not None:
        frame = frame.f_back
        level += 1
    warnings.warn(message, category, stacklevel=level, source=source)


def warn_dropped(leases: Iterable[tuple[str, int]], source: object) -> None:
    """Warns of held leases that were dropped. The engine releases them."""
    for key, token in leases:
        message = f'lock "{key}": a held lease (token {token}) was dropped without release; the engine releases it'
        warn_caller(message, ResourceWarning, source)
