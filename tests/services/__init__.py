"""Real servers for tests, started and stopped by the tests."""

from .etcd_server import EtcdServer
from .redis_server import RedisServer
from .server_process import ServerProcess, free_port
from .tcp_proxy import TcpProxy

__all__ = ["EtcdServer", "RedisServer", "ServerProcess", "TcpProxy", "free_port"]
