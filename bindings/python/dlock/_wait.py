"""Waiting for a descriptor, whatever has been patched."""

import select

from dlock import _guard  # noqa: F401


def wait_readable(descriptor: int) -> None:
    """Looked up at each call: gevent and eventlet replace `select`, and eventlet takes `poll` away."""
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll()
    else:
        select.select([descriptor], [], [])
