"""Compares what was seen with what a scenario expects."""

import re
from typing import Any

from driver_process import Answer

CODE = re.compile(r"[A-Z][A-Z_]+|TypeError")


class Mismatch(AssertionError):
    """A promise that was not kept."""


ANYTHING = object()


def check_answer(answer: Answer, expected: Any = ANYTHING) -> None:
    """An error code, `{error: CODE, field: ..}`, or what the value must look like; without an expectation the call must succeed."""
    if isinstance(expected, str) and CODE.fullmatch(expected):
        expected = {"error": expected}
    if isinstance(expected, dict) and "error" in expected:
        if answer.error is None:
            raise Mismatch(f"expected {expected['error']}, got {answer}")
        wanted = {("code" if name == "error" else name): value for name, value in expected.items()}
        check_value(answer.error, wanted)
        return
    if answer.error is not None:
        raise Mismatch(f"{answer}")
    if expected is not ANYTHING:
        check_value(answer.ok, expected)


def check_value(seen: Any, expected: Any, path: str = "") -> None:
    """Mappings match in the fields that they name; `{above: 3}` and the like are conditions."""
    if isinstance(expected, dict):
        if expected and set(expected) <= set(CONDITIONS):
            for name, operand in expected.items():
                if not CONDITIONS[name](seen, operand):
                    raise Mismatch(f"{path or 'value'}: {seen!r} is not {name} {operand!r}")
            return
        if not isinstance(seen, dict):
            raise Mismatch(f"{path or 'value'}: expected {expected!r}, got {seen!r}")
        for name, inner in expected.items():
            check_value(seen.get(name), inner, f"{path}.{name}" if path else name)
        return
    if isinstance(expected, list) and isinstance(seen, list) and len(seen) == len(expected):
        for at, (one, wanted) in enumerate(zip(seen, expected, strict=True)):
            check_value(one, wanted, f"{path}[{at}]")
        return
    if seen != expected or isinstance(seen, bool) != isinstance(expected, bool):
        raise Mismatch(f"{path or 'value'}: expected {expected!r}, got {seen!r}")


CONDITIONS = {
    "above": lambda seen, bound: seen is not None and seen > bound,
    "below": lambda seen, bound: seen is not None and seen < bound,
    "one-of": lambda seen, values: seen in values,
    "not": lambda seen, value: seen != value,
    "contains": lambda seen, text: seen is not None and text in seen,
    "lacks": lambda seen, text: seen is not None and text not in seen,
    "matches": lambda seen, pattern: seen is not None and re.search(pattern, seen) is not None,
    "any": lambda seen, wanted: (seen is not None) == wanted,
}
