"""What the handles of both faces have in common, and which caller has which lease until it is released.

A *taker* is what a face counts as one caller: a task, or a thread.
"""

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Final, Generic, NoReturn, Self, SupportsIndex, TypeVar, Unpack

from dlock._log import LOG
from dlock._native import Caller, Handle, block, check_seconds, ttl_hint
from dlock._native import Client as NativeClient
from dlock._native import Lease as NativeLease
from dlock._observe import Capabilities, Observers, Stats
from dlock._options import DEFAULT, ClientOptions, LockOptions, Seconds, checked, open_client, split_on_lost
from dlock._signals import END, close_on_signal
from dlock._warn import warn_caller
from dlock._words import unexpected
from dlock.errors import ForkedError, LockLost, NotHeld, invalid


def bound(handle: object, _protocol: SupportsIndex) -> NoReturn:
    """The answer to pickle and copy: a handle stands for a connection and for what this process holds."""
    raise TypeError(
        f"{handle!r} cannot be pickled or copied: it belongs to this process. Pass the URL and the key, and make a client and a "
        "lock from them there; within this process pass the object itself"
    )


class ClientHandle:
    """A client of the engine, and its latest lease of each key."""

    __slots__ = ("_leases", "_native", "_observers")

    _of_module: ClassVar[Any] = None

    def __init__(self, url: str | None = None, **options: Unpack[ClientOptions]) -> None:
        self._bind(open_client(url, options))

    __reduce_ex__ = bound

    def _bind(self, native: NativeClient) -> None:
        self._native = native
        # By key, until the release: to notice a taker that waits for itself.
        self._leases: dict[str, weakref.ref[LeaseHandle]] = {}
        # By where they are called: an event loop, or a key that stands for a thread.
        self._observers: weakref.WeakKeyDictionary[object, Observers] = weakref.WeakKeyDictionary()

    def stats(self) -> Stats:
        """What this client has done, and what it is doing. Does no I/O."""
        return self._native.stats()

    def capabilities(self) -> Capabilities:
        """What the backend can do. Does no I/O."""
        return self._native.capabilities()

    def metrics(self) -> str:
        """The figures of `stats()` in the OpenMetrics text format.

        Serve it as `application/openmetrics-text; version=1.0.0; charset=utf-8`. Each client has a registry of its own, and no
        label contains a key.
        """
        return self._native.metrics()

    def reopen(self) -> None:
        """Lets a closed client work again, for a client that outlives its application, as in the tests of a web server's lifespan.

        The next operation connects again; locks that were made before, and functions decorated with `locked`, work again too.
        Leases from before stay lost; observers and figures go on. On an open client it does nothing. It does not wait for a
        `close` that is still draining: that goes on with the leases that were held before.
        """
        self._native.reopen()

    def close_on_signal(self, timeout: Seconds, signals: Iterable[int] = END) -> Callable[[], None]:
        """Begins `close(timeout)` on a thread at the first of these signals. Returns a function that cancels this.

        Once the client is closed, the signal does what it would have done without this: it ends the process, or calls the handler
        that was there before. A second signal does not wait for the close. Only for the main thread. If the event loop has a
        handler of its own for the signal, as in web servers, close the client in the server's shutdown instead, after its last
        request: requests are new work, which the client would refuse.
        """
        check_seconds("timeout", timeout)
        native = self._native
        return close_on_signal(lambda: block(native.close, timeout), signals)

    @classmethod
    def _default(cls) -> Self:
        """The client behind the module's own functions. The default clients of both faces share a connection."""
        native = DEFAULT.get()
        known: Self | None = cls._of_module
        if known is None or known._native is not native:
            known = cls._of_module = cls.__new__(cls)
            known._bind(native)
        return known

    @classmethod
    def _sharing(cls, other: "ClientHandle") -> Self:
        """A client on the other one's connection, with leases of its own."""
        client = cls.__new__(cls)
        client._bind(other._native)
        return client

    def __repr__(self) -> str:
        return f"<{_public_name(self)} {self._native.server}>"


class LeaseHandle(NativeLease):
    """A lease, and its taker."""

    __slots__ = ("__weakref__", "_key", "_leases", "_on_lost", "_taker")

    # The native part sets these: a Python call at each grant would cost time.
    _key: str  # for lookups: `key` makes a new text each time
    _leases: "dict[str, weakref.ref[LeaseHandle]]"
    _on_lost: str
    _taker: object

    __reduce_ex__ = bound

    # Releases a held lease that code can no longer reach, with a warning. It is native: an exception of a signal handler in Python
    # code would reach nobody.
    __del__ = NativeLease._dropped

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


L = TypeVar("L", bound=LeaseHandle)


class LockHandle(Handle, Generic[L]):
    """A lock, and the leases that were acquired with it."""

    __slots__ = ("__weakref__", "_client", "_entered", "_native", "_on_lost", "_reentrant", "_taken", "key")

    # The allowed values of `on_lost`. The first is the default.
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
        self._reentrant = options.get("reentrant", False)
        self.key: Final = self._native.key  # a plain str, whatever was given
        self._client = client
        # The leases of `with` bodies that are running, and those of other acquires.
        self._entered: list[L] = []
        self._taken: list[weakref.ref[L]] = []

    __reduce_ex__ = bound

    # Native, as that of a lease.
    __del__ = Handle._dropped

    def __repr__(self) -> str:
        return f"<{_public_name(self)} {self.key!r}>"

    def _warn_of_own_lease(self, taker: object) -> None:
        """Warns a taker that is about to wait for a key, if it holds that itself."""
        known = self._client._leases.get(self.key)
        if known is None or (own := known()) is None or own._taker != taker or not own.valid:
            return
        name = self._taker_name
        warn_caller(f'deadlock: this {name} already holds lock "{self.key}" and is waiting to acquire it again', RuntimeWarning)

    def _warn_of_starter(self, caller: Caller) -> None:
        """Warns a taker that timed out waiting for a key which its starter still holds. Once for each lease: it may be intended."""
        if self._native.is_held_by_starter_of(caller):
            name = self._taker_name
            message = (
                f'possible deadlock: this {name} timed out waiting for lock "{self.key}", which the {name} that started it holds; '
                f"if that one waits for this {name}, neither can go on"
            )
            warn_caller(message, RuntimeWarning)


def holder_named(token: object, owner: object) -> Any:
    """The holder with this token, or with this owner id. The engine checks the token."""
    if token is not None and owner is None and not isinstance(token, str):
        return token
    if token is None and isinstance(owner, str):
        return owner
    raise invalid("holder", f"token={token!r}, owner={owner!r}"[:80], "token=, an int from 0, or owner=, a str")


def warn_of_unit(ttl: Seconds) -> None:
    """Warns of a TTL that is allowed but looks like milliseconds. A timedelta states its unit."""
    if isinstance(ttl, int | float) and (hint := ttl_hint(ttl)) is not None:
        warn_caller(hint, RuntimeWarning)


def refuse_words(call: str, given: dict[str, Any], *taken: str) -> None:
    """Raises for keywords that the call does not take."""
    if given:
        raise unexpected(call, given.keys(), taken)


def check_callable(fn: object) -> None:
    """Refuses what is no function, before the key is acquired."""
    if not callable(fn):
        raise invalid("fn", f"an object of type {type(fn).__name__}", "a function that takes the lease")


def _public_name(handle: object) -> str:
    """The name of a handle's class, in its public module."""
    kind = type(handle)
    return f"{kind.__module__.partition('._')[0]}.{kind.__qualname__}"
