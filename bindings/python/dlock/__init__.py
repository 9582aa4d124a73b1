"""Distributed locks with fencing tokens: no server, Redis or etcd, by changing one URL."""

from dlock._native import __version__

__all__ = ["__version__"]
