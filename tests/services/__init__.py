"""Real servers for tests, started and stopped by the tests."""

from .redis_server import RedisServer, free_port
from .tcp_proxy import TcpProxy

__all__ = ["RedisServer", "TcpProxy", "free_port"]
