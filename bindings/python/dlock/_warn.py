"""Warnings that point at the line of the user's program that they are about."""

import os
import sys
import warnings
from collections.abc import Iterable

from dlock import _guard  # noqa: F401

_HERE = os.path.dirname(sys._getframe().f_code.co_filename) + os.sep


def warn_caller(message: str, category: type[Warning], source: object = None) -> None:
    """Warns of the nearest line that is not ours, however many of our calls lie between."""
    level = 2
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(_HERE) and frame.f_back is not None:
        frame = frame.f_back
        level += 1
    warnings.warn(message, category, stacklevel=level, source=source)


def warn_dropped(leases: Iterable[tuple[str, int]], source: object) -> None:
    """Says that leases were dropped while held; the engine gives them back."""
    for key, token in leases:
        message = f'lock "{key}": a held lease (token {token}) was dropped without release; it is given back'
        warn_caller(message, ResourceWarning, source)
