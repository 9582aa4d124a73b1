"""The engine, as the faces see it. Private: use `dlock` and `dlock.sync`."""

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Literal, Never, Self, final

from typing_extensions import disjoint_base

from dlock._lease import Lease as LeaseOfAsyncio
from dlock._lock_sync import Lease as LeaseOfSync
from dlock._observe import Capabilities, EventName, Stats
from dlock._options import Unset

__all__ = [
    "DEFAULT_CHOSEN",
    "Acquiring",
    "AsyncLease",
    "AsyncLock",
    "Call",
    "Caller",
    "Client",
    "Completions",
    "Descriptor",
    "Event",
    "Exit",
    "Grant",
    "Handle",
    "Lease",
    "Lock",
    "Subscription",
    "SyncLease",
    "SyncLock",
    "__version__",
    "after_fork_in_child",
    "after_fork_in_parent",
    "before_fork",
    "block",
    "check_seconds",
    "listen_to_logs",
    "log_targets",
    "set_log_level",
    "shutdown",
    "take_logs",
    "taker",
    "tell",
    "trust_hooks",
    "ttl_hint",
]

__version__: str
DEFAULT_CHOSEN: str

_Seconds = float | timedelta

def shutdown() -> None: ...
def log_targets() -> list[str]: ...
def block(start: Callable[..., Call | None], *arguments: object) -> Any: ...
def taker() -> object: ...
def tell(future: Any, value: object, error: BaseException | None) -> None: ...
def check_seconds(field: str, value: _Seconds) -> None: ...
def trust_hooks() -> None: ...
def ttl_hint(ttl: float) -> str | None: ...
def before_fork() -> None: ...
def after_fork_in_parent() -> None: ...
def after_fork_in_child() -> None: ...
def listen_to_logs(completions: Completions) -> None: ...
def set_log_level(level: int) -> None: ...
def take_logs() -> tuple[list[tuple[int, str, str, dict[str, str]]], int]: ...

@final
class Completions:
    def __new__(cls) -> Completions: ...
    def fileno(self) -> int: ...
    def drain(self) -> None: ...
    def drain_into(self, came: deque[tuple[int, Any, BaseException | None]]) -> None: ...
    def ring(self) -> None: ...
    def reads_nothing(self) -> None: ...
    def close(self) -> None: ...

@final
class Call:
    @property
    def socket(self) -> int | None: ...
    def abort(self) -> None: ...
    def descriptor(self) -> Descriptor | None: ...
    def drive(self) -> bool: ...
    def leave_to_engine(self) -> None: ...

@final
class Descriptor:
    def fileno(self) -> int: ...

@final
class Caller:
    def __new__(cls, started_by: Caller | None = None) -> Caller: ...
    @staticmethod
    def unknown() -> Caller: ...

@final
class Grant:
    def release(self) -> None: ...

@disjoint_base
class Lease:
    def __new__(cls, grant: Grant, *_face: object) -> Lease: ...
    @property
    def key(self) -> str:
        """The key that was granted."""

    @property
    def token(self) -> int:
        """The fencing token: greater than every token granted for this key before."""

    @property
    def owner(self) -> str:
        """The owner id of the attempt that acquired the lease, as other processes see it."""

    @property
    def acquired_at(self) -> datetime:
        """Wall time of the grant, for display."""

    @property
    def expires_at(self) -> datetime:
        """Wall time at which the lease ends, for display."""

    @property
    def ttl(self) -> float:
        """The lease time in seconds, of the latest grant or extension."""

    @property
    def remaining(self) -> float:
        """For how many seconds the holder may still rely on the lease; zero once it is not valid."""

    @property
    def valid(self) -> bool:
        """Whether the holder may rely on the lease now. It reads the clock. False in a forked child."""

    @property
    def lost(self) -> bool:
        """Whether the lease ended without being released."""

    @property
    def status(self) -> str:
        """`held`, `releasing`, `released`, `not_held`, `unknown` or `lost`."""

    def check(self) -> None:
        """Raises `LockLost` or `NotHeld` unless the lease is valid."""

    def auto_renew(self, renew: bool) -> None:
        """Switches automatic renewal on or off while the lease is held."""

    def heartbeat(self) -> bool:
        """A heartbeat: with `max_stall`, the lease ends if none comes for that long. False once the lease has ended.

        In asyncio, the event loop that acquired the lease sends heartbeats by itself. In `dlock.sync`, the holder calls this.
        """

    @property
    def _released(self) -> bool: ...
    def _dropped(self) -> None: ...
    @property
    def _ends(self) -> int: ...
    def _watch(self, completions: Completions, number: int) -> None: ...
    def _extend(self, completions: Completions, number: int, ttl: _Seconds) -> Call: ...
    def _wait_lost(self, completions: Completions, number: int) -> Call: ...

@final
class Lock:
    @property
    def key(self) -> str: ...
    def is_held_by_starter_of(self, caller: Caller) -> bool: ...

class Handle:
    def __new__(cls, *_arguments: object, **_keywords: object) -> Self: ...
    def _dropped(self) -> None: ...

@final
class Exit:
    """`__exit__` or `__aexit__` of one body: takes the type, the value and the traceback of an exception, or None."""

    def __call__(self, *arguments: Any) -> Any: ...

class SyncLock:
    def acquire(self, *, wait: _Seconds | Unset | None = ..., **other: Never) -> LeaseOfSync:
        """Waits for the key and returns the lease. `wait` replaces the lock's own: 0 tries once, None waits for ever.

        Raises `AcquireTimeout` when `wait` is over, `LockBusy` when it is 0 and another holder has the key, `RetriesExhausted`
        after the last attempt of `retry`, `BackendUnavailable` when the backend failed for `connect_timeout`.

        In `dlock.sync`, an exception that a signal handler raises ends the attempt, and a grant that is under way is released.
        """

    def release(self) -> bool:
        """Releases the lease that this thread acquired last with this lock, else the only outstanding one. See `Lease.release`."""

    def __enter__(self) -> LeaseOfSync: ...
    __exit__: Exit

class SyncLease:
    def release(self) -> bool:
        """Releases the key. The lease stops being valid at once.

        True if the backend confirmed the release within `op_timeout`. Otherwise `status` has the state, and the engine goes on
        trying until the lease would have expired.

        With `reentrant`, each release undoes one acquire, and the last one frees the key.

        In `dlock.sync`, the release goes on in the background if a signal handler raises during the call.
        """

    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None: ...

class AsyncLock:
    def release(self) -> Coroutine[Any, Any, bool]:
        """Releases the lease that this task acquired last with this lock, else the only outstanding one. See `Lease.release`."""

    def __aenter__(self) -> Coroutine[Any, Any, LeaseOfAsyncio]: ...
    __aexit__: Exit

class AsyncLease:
    def release(self) -> Coroutine[Any, Any, bool]:
        """Releases the key. The lease stops being valid at once.

        True if the backend confirmed the release within `op_timeout`. Otherwise `status` has the state, and the engine goes on
        trying until the lease would have expired.

        With `reentrant`, each release undoes one acquire, and the last one frees the key.

        In asyncio, the release begins with the call, and awaiting it gives the answer. If the caller is cancelled, the release
        goes on in the background.
        """

    def __aenter__(self) -> Awaitable[Self]: ...
    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> Awaitable[None]: ...

@final
class Acquiring(Coroutine[Any, Any, LeaseOfAsyncio]):
    def __new__(cls, lock: AsyncLock, wait: _Seconds | Unset | None) -> Acquiring: ...
    def __await__(self) -> Generator[Any, Any, LeaseOfAsyncio]: ...
    def __iter__(self) -> Any: ...
    def __next__(self) -> Any: ...
    def send(self, _value: Any) -> Any: ...
    def throw(self, kind: Any, value: Any = None, _trace: Any = None) -> Any: ...
    def close(self) -> None: ...

@final
class Event:
    """Something that happened to a lease, or to an attempt to acquire one."""

    __match_args__ = ("kind", "key", "token", "owner", "waited", "held", "reason")
    def __new__(
        cls,
        kind: EventName,
        key: str,
        token: int | None = None,
        owner: str | None = None,
        waited: float | None = None,
        held: float | None = None,
        reason: str | None = None,
    ) -> Event: ...
    @property
    def kind(self) -> EventName: ...
    @property
    def key(self) -> str: ...
    @property
    def token(self) -> int | None:
        """None if no lease was acquired."""

    @property
    def owner(self) -> str | None:
        """None if no lease was acquired."""

    @property
    def waited(self) -> float | None:
        """How many seconds the attempt took. Set on `acquired` and `acquire_failed`."""

    @property
    def held(self) -> float | None:
        """For how many seconds the lease has been held. Set on every event after `acquired`."""

    @property
    def reason(self) -> str | None:
        """For `lost` the reason; for `acquire_failed` the error's code or `CANCELLED`; for `renewal_failed` the backend's error;
        for `released` the status."""

    def _asdict(self) -> dict[str, Any]: ...
    def __eq__(self, value: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[type[Event], tuple[Any, ...]]: ...

@final
class Subscription:
    def listen(self, events: list[str]) -> None: ...
    def __iter__(self) -> Subscription: ...
    def __next__(self) -> Event: ...
    def end(self) -> None: ...
    @property
    def over(self) -> bool: ...

@final
class Client:
    def __new__(
        cls,
        url: str | None,
        *,
        namespace: str | None = None,
        op_timeout: _Seconds | None = None,
        connect_timeout: _Seconds | None = None,
        renewal: object = None,
        require_url: bool | None = None,
    ) -> Client: ...
    @staticmethod
    def of_program() -> Client: ...
    def configure(
        self,
        url: str | None,
        *,
        namespace: str | None = None,
        op_timeout: _Seconds | None = None,
        connect_timeout: _Seconds | None = None,
        renewal: object = None,
        require_url: bool | None = None,
    ) -> None: ...
    def reset(self, completions: Completions, number: int) -> Call: ...
    def reopen(self) -> None: ...
    @property
    def server(self) -> str: ...
    @property
    def chosen_by(self) -> Literal["argument", "variable", "default"]: ...
    @property
    def inherited(self) -> bool: ...
    def lock(
        self,
        key: str,
        *,
        ttl: _Seconds | None = None,
        wait: _Seconds | None = None,
        renew: bool | None = None,
        renewal_threshold: float | None = None,
        retry: object = None,
        fair: bool | None = None,
        max_hold: _Seconds | None = None,
        max_stall: _Seconds | None = None,
        reentrant: bool | None = None,
        metadata: str | None = None,
        op_timeout: _Seconds | None = None,
    ) -> Lock: ...
    def ping(self, completions: Completions, number: int, caller: Caller) -> Call: ...
    def inspect(self, completions: Completions, number: int, caller: Caller, key: str) -> Call: ...
    def list_locks(self, completions: Completions, number: int, caller: Caller, prefix: str) -> Call: ...
    def is_locked(self, completions: Completions, number: int, caller: Caller, key: str) -> Call: ...
    def force_release(self, completions: Completions, number: int, caller: Caller, key: str, holder: int | str) -> Call: ...
    def stats(self) -> Stats: ...
    def capabilities(self) -> Capabilities: ...
    def metrics(self) -> str: ...
    def health(self, completions: Completions, number: int) -> Call: ...
    def subscribe(self, completions: Completions, number: int) -> Subscription: ...
    def close(self, completions: Completions, number: int, timeout: _Seconds) -> Call: ...
