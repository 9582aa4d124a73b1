"""What the handles of both faces have in common: their names, and which lease is whose until it is given back.

A *taker* is what a face counts as one caller: a task, or a thread.
"""

import weakref
from collections.abc import Sequence
from typing import Any, ClassVar, Final, Generic, NoReturn, Self, SupportsIndex, TypeVar, Unpack

from dlock import _native
from dlock._log import LOG
from dlock._observe import Capabilities, Observers, Stats
from dlock._options import DEFAULT, UNSET, ClientOptions, LockOptions, Seconds, Unset, checked, open_client, split_on_lost
from dlock._warn import warn_caller
from dlock._words import unexpected
from dlock.errors import ForkedError, LockLost, NotHeld, invalid


def bound(handle: object, _protocol: SupportsIndex) -> NoReturn:
    """What pickle and copy get to hear: a handle is made of a connection and of what this process holds."""
    raise TypeError(
        f"{handle!r} cannot be pickled or copied: it belongs to this process. Pass on the URL and the key and make a client and a "
        "lock of them there; within this process pass on the object itself"
    )


class ClientHandle:
    """A client of the engine, and its latest lease of each key."""

    __slots__ = ("_leases", "_native", "_observers")

    _of_module: ClassVar[Any] = None

    def __init__(self, url: str | None = None, **options: Unpack[ClientOptions]) -> None:
        self._bind(open_client(url, options))

    __reduce_ex__ = bound

    def _bind(self, native: _native.Client) -> None:
        self._native = native
        # Until it is released: to see a taker wait for itself.
        self._leases: dict[str, weakref.ref[LeaseHandle]] = {}
        # By where they are called: an event loop, or None for a thread.
        self._observers: weakref.WeakKeyDictionary[object, Observers] = weakref.WeakKeyDictionary()

    def stats(self) -> Stats:
        """What this client has done and has under way. Cheap: no I/O."""
        return self._native.stats()

    def capabilities(self) -> Capabilities:
        """What the backend can do. Does no I/O."""
        return self._native.capabilities()

    def metrics(self) -> str:
        """The figures in the OpenMetrics text format, to be served as `application/openmetrics-text; version=1.0.0; charset=utf-8`.

        Each client has a registry of its own, and no label holds a key.
        """
        return self._native.metrics()

    def reopen(self) -> None:
        """Lets a closed client work again, for one that outlives its application, as in the tests of a web server's lifespan.

        The next operation connects anew, and locks made before, and functions decorated with `locked`, follow. Does nothing to a
        client that is open. Leases of before stay lost; observers and counts go on. It does not wait for a `close` that is still
        draining: that one goes on with what was held before.
        """
        self._native.reopen()

    @classmethod
    def _default(cls) -> Self:
        """The client behind the module's own functions. Those of both faces share a connection."""
        native = DEFAULT.get()
        known: Self | None = cls._of_module
        if known is None or known._native is not native:
            known = cls._of_module = cls.__new__(cls)
            known._bind(native)
        return known

    @classmethod
    def _sharing(cls, other: "ClientHandle") -> Self:
        """A client of this face on the other one's connection."""
        client = cls.__new__(cls)
        client._bind(other._native)
        return client

    def __repr__(self) -> str:
        return f"<{_public_name(self)} {self._native.server}>"


class LeaseHandle(_native.Lease):
    """A lease, and who took it."""

    __slots__ = ("__weakref__", "_key", "_leases", "_on_lost", "_taker")

    # Set by each face: one call more would be paid for at each grant.
    _key: str  # to look it up: `key` makes a new text each time
    _leases: "dict[str, weakref.ref[LeaseHandle]]"
    _on_lost: str
    _taker: object

    __reduce_ex__ = bound

    # What is held and can be reached no more is given back, with a warning. Native, because a signal handler that raised in there
    # would raise to nobody.
    __del__ = _native.Lease._dropped

    def __repr__(self) -> str:
        try:
            status = self.status
        except ForkedError:
            status = "of the parent process"
        return f"<{_public_name(self)} {self.key!r} token={self.token} {status}>"

    def _loss(self) -> LockLost | None:
        try:
            self.check()
        except LockLost as loss:
            return loss
        except (NotHeld, ForkedError):
            pass
        return None

    def _abandoned(self) -> None:
        """A body that was about to begin never did: the lease was given back."""


L = TypeVar("L", bound=LeaseHandle)


class LockHandle(_native.Handle, Generic[L]):
    """A lock, and the leases that were taken with it."""

    __slots__ = ("__weakref__", "_client", "_entered", "_max_stall", "_native", "_on_lost", "_reentrant", "_taken", "key")

    # What a loss may do to the body; the first is the default.
    _reactions: ClassVar[Sequence[str]]
    _taker_name: ClassVar[str]

    def __init__(self, client: ClientHandle, key: str, options: LockOptions) -> None:
        LOG.look()
        self._on_lost, engine_options = split_on_lost(checked(options), self._reactions)
        try:
            self._native = client._native.lock(key, **engine_options)
        except TypeError:
            if engine_options.keys() <= LockOptions.__annotations__.keys():
                raise
            raise unexpected("lock", engine_options.keys(), LockOptions.__annotations__.keys()) from None
        if "ttl" in options:
            warn_of_unit(options["ttl"])
        # Seconds: what the engine made of it.
        self._max_stall = self._native.max_stall if "max_stall" in options else None
        self._reentrant = options.get("reentrant", False)
        self.key: Final = self._native.key  # a plain str, whatever was given
        self._client = client
        # Leases of `with` bodies under way, and of other acquires.
        self._entered: list[L] = []
        self._taken: list[weakref.ref[L]] = []

    __reduce_ex__ = bound

    # Native, as that of a lease is.
    __del__ = _native.Handle._dropped

    def __repr__(self) -> str:
        return f"<{_public_name(self)} {self.key!r}>"

    def _warn_of_own_lease(self, taker: object, wait: Seconds | Unset | None) -> None:
        """Who waits for a key that it holds itself may wait for ever."""
        known = self._client._leases.get(self.key)
        if known is None or (own := known()) is None or own._taker != taker or not own.valid:
            return
        if not self._native.retries and (self._native.waits if wait is UNSET else wait != 0):
            warn_caller(f'lock "{self.key}": this {self._taker_name} holds it already and now waits for itself', RuntimeWarning)

    def _warn_of_starter(self, caller: _native.Caller) -> None:
        """Who waited in vain for a key that whoever started it still holds: once for each lease, since it may mean to."""
        if self._native.is_held_by_starter_of(caller):
            name = self._taker_name
            message = (
                f"lock {self.key!r}: this {name} was started by the one that holds it, and waits for itself if that waits for it"
            )
            warn_caller(message, RuntimeWarning)


def holder_named(token: object, owner: object) -> Any:
    """Whom a caller means: the holder with this token, or the one with this owner id. What a token may be the engine says."""
    if token is not None and owner is None and not isinstance(token, str):
        return token
    if token is None and isinstance(owner, str):
        return owner
    raise invalid("holder", f"token={token!r}, owner={owner!r}"[:80], "token=, an int from 0, or owner=, a str")


def warn_of_unit(ttl: Seconds) -> None:
    """Asks about a TTL that is legal and looks like milliseconds. A timedelta says its unit."""
    if isinstance(ttl, int | float) and (hint := _native.ttl_hint(ttl)) is not None:
        warn_caller(hint, RuntimeWarning)


def refuse_words(call: str, given: dict[str, Any], *taken: str) -> None:
    """For keywords that a call of ours does not take."""
    if given:
        raise unexpected(call, given.keys(), taken)


def check_callable(fn: object) -> None:
    """Before the key is asked for."""
    if not callable(fn):
        raise invalid("fn", f"an object of type {type(fn).__name__}", "a function that takes the lease")


def _public_name(handle: object) -> str:
    """Modules whose names begin with an underscore are for us alone."""
    kind = type(handle)
    return f"{kind.__module__.partition('._')[0]}.{kind.__qualname__}"
