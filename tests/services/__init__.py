"""Real servers for tests, started and stopped by the tests."""

from .redis_server import RedisServer, free_port

__all__ = ["RedisServer", "free_port"]
