"""An etcd of our own, alone in its cluster. It keeps its data: after `kill` it comes back with all that it had."""

import base64
import json
import urllib.request
from typing import Any

from .server_process import START_SECONDS, ServerProcess, free_port


class EtcdServer(ServerProcess):
    """Keyword options become options of the server: `EtcdServer(auth_token_ttl="5")`.

    What tests kill is a process and not a machine, so it waits for its disk only if it is to be `durable`.
    """

    program = "etcd"

    def __init__(self, durable: bool = False, **options: str) -> None:
        super().__init__()
        self._options = options
        self._flags = [] if durable else ["--unsafe-no-fsync"]
        self._peer_port = 0

    @property
    def url(self) -> str:
        return f"etcd://{self.host}:{self.port}"

    def stop(self) -> None:
        """At once: an orderly end waits for the clients that are still there."""
        self.kill()

    def raft_index(self) -> int:
        """The number of the last entry of the log: counts what requests cost."""
        return int(self.call("maintenance/status")["raftIndex"])

    def keys(self, prefix: str = "") -> list[str]:
        """The keys that begin so, sorted."""
        first = prefix.encode() or b"\0"
        # The key after all that begin so; zero means without end.
        last = first[:-1] + bytes([first[-1] + 1]) if prefix else b"\0"
        found = self.call("kv/range", key=_encoded(first), range_end=_encoded(last), keys_only=True)
        return [base64.b64decode(each["key"]).decode(errors="replace") for each in found.get("kvs", ())]

    def leases(self) -> list[str]:
        return [each["ID"] for each in self.call("lease/leases").get("leases", ())]

    def require_password(self, password: str) -> None:
        """From now on clients need a user, and so does what we ask: there is `root` with this password."""
        self.call("auth/user/add", name="root", password=password)
        self.call("auth/role/add", name="root")
        self.call("auth/user/grant", user="root", role="root")
        self.call("auth/enable")

    def command(self, *words: str | int) -> str:
        """`keys PREFIX` or `leases`, one a line; `require-password PASSWORD`."""
        match words:
            case ["keys", *prefix]:
                return "\n".join(self.keys("".join(map(str, prefix))))
            case ["leases"]:
                return "\n".join(self.leases())
            case ["require-password", password]:
                self.require_password(str(password))
                return ""
            case _:
                raise ValueError(f"etcd has no command {words}")

    def call(self, what: str, **body: Any) -> dict[str, Any]:
        """Calls etcd's JSON gateway, as in `call("kv/range", key=..)`. Keys and values are in base64 there."""
        return _answer(f"http://{self.host}:{self.port}/v3/{what}", json.dumps(body).encode())

    def _command_line(self, port: int) -> list[str]:
        # Once there is data it belongs to this address.
        if not self.port:
            self._peer_port = free_port()
        client, peer = f"http://{self.host}:{port}", f"http://{self.host}:{self._peer_port}"
        options = {
            "name": "alone",
            "data-dir": str(self.folder / "data"),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"alone={peer}",
            "logger": "zap",
            "log-level": "error",
        } | {name.replace("_", "-"): value for name, value in self._options.items()}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        return [self.program, *self._flags, *words]

    def _serves(self, port: int) -> bool:
        return bool(_answer(f"http://{self.host}:{port}/health").get("health") == "true")


def _answer(url: str, body: bytes | None = None) -> dict[str, Any]:
    # Past whatever proxy the environment names.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, body, timeout=START_SECONDS) as answer:
        parsed: dict[str, Any] = json.load(answer)
        return parsed


def _encoded(key: bytes) -> str:
    return base64.b64encode(key).decode()
