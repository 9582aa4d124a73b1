"""Waits for a descriptor, also where `select` is patched."""

import select

import dlock._guard  # noqa: F401


def wait_readable(descriptor: int) -> None:
    """Looks `select` up at each call: gevent and eventlet replace it, and eventlet removes `poll`."""
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll()
    else:
        select.select([descriptor], [], [])
