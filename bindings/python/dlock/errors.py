"""The errors of the package. `except dlock.LockError` catches all of them."""

from collections.abc import Sequence
from typing import Any, Final

from dlock._holder import Holder

__all__ = [
    "AcquireTimeout",
    "BackendRefused",
    "BackendUnavailable",
    "ClientClosed",
    "ForkedError",
    "InvalidOptions",
    "LockBusy",
    "LockError",
    "LockLost",
    "NotAcquired",
    "NotHeld",
    "RetriesExhausted",
]


class LockError(Exception):
    """The base of every error of this package. Fields that do not apply to an error are None."""

    code: str = "LOCK_ERROR"
    """A word that never changes, the same in every language. Each class has one; a few errors of the base class have their own."""
    key: str | None = None
    holder: Holder | None = None
    """Who held the key when last seen."""
    server: str | None = None
    """The backend's address, without its password."""
    operation: str | None = None

    def __init__(self, message: str = "", /, **fields: Any) -> None:
        super().__init__(message)
        self.__dict__.update(fields)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.args, self.__dict__))


class NotAcquired(LockError):
    """The key was not acquired."""

    code = "NOT_ACQUIRED"


class AcquireTimeout(NotAcquired, TimeoutError):
    """Another holder had the key for all of `wait`. If the backend fails when `wait` ends, the error is `BackendUnavailable`."""

    code = "ACQUIRE_TIMEOUT"
    waited: float | None = None
    """How long the caller waited, in seconds."""


class LockBusy(NotAcquired):
    """A single try found that another holder has the key."""

    code = "LOCK_BUSY"


class RetriesExhausted(NotAcquired):
    """Every attempt of a `retry` found that another holder has the key."""

    code = "RETRIES_EXHAUSTED"
    attempts: int | None = None
    """How many attempts were made."""


class LockLost(LockError):
    """The lease ended before its holder released it."""

    code = "LOCK_LOST"
    token: int | None = None
    """The lost lease's fencing token."""
    reason: str | None = None
    """`expired`, `gone`, `max_hold`, `max_stall` or `closed`."""


class NotHeld(LockError):
    """The lease was already released."""

    code = "NOT_HELD"


class BackendUnavailable(LockError, ConnectionError):
    """The backend could not be reached or cannot serve the request now."""

    code = "BACKEND_UNAVAILABLE"


class BackendRefused(LockError):
    """The backend refused the request: wrong login, missing rights, a limit, or a value that is not a lock. Trying again will not
    help."""

    code = "BACKEND_REFUSED"


class InvalidOptions(LockError, ValueError):
    """An option, key or URL that cannot be used. It is found before any I/O."""

    code = "INVALID_OPTIONS"
    field: str | None = None
    value: str | None = None
    allowed: str | None = None


class ClientClosed(LockError):
    """The client was closed."""

    code = "CLIENT_CLOSED"


class ForkedError(LockError):
    """The handle was made by the parent process, before a fork. Make a new client in the child."""

    code = "FORKED"


_CLASSES: Final[dict[str, type[LockError]]] = {
    kind.code: kind
    for kind in (
        AcquireTimeout,
        LockBusy,
        RetriesExhausted,
        LockLost,
        NotHeld,
        BackendUnavailable,
        BackendRefused,
        InvalidOptions,
        ClientClosed,
        ForkedError,
    )
}


def from_engine(code: str, message: str, fields: dict[str, Any], causes: Sequence[str]) -> LockError:
    """An error of the class for a stable code, with the chain of its causes. The extension calls this."""
    error = _CLASSES.get(code, LockError)(message, code=code, **fields)
    above: BaseException = error
    for cause in causes:
        above.__cause__ = OSError(cause)
        above = above.__cause__
    return error


def invalid(field: str, value: str, allowed: str) -> InvalidOptions:
    """The error for what only Python can see. The engine checks ranges."""
    message = f"{field}: {value} is not valid: {allowed}"
    return InvalidOptions(message, field=field, value=value, allowed=allowed)


def _rebuild(kind: type[LockError], arguments: tuple[Any, ...], fields: dict[str, Any]) -> LockError:
    # Not `kind(...)`: a subclass of the program may take other arguments.
    error = kind.__new__(kind, *arguments)
    error.args = arguments
    error.__dict__.update(fields)
    return error
