"""What a server had to do."""

from worker import processor_seconds

from services import RedisServer, ServerProcess


def server_seconds(server: ServerProcess | None) -> float:
    """The processor time that it has used so far."""
    return processor_seconds(server.pid) if server else 0.0


def commands_so_far(server: ServerProcess | None) -> int | None:
    """How many commands it has executed, where it counts them. Those inside a script count one each."""
    if not isinstance(server, RedisServer):
        return None
    told = dict(line.split(":", 1) for line in server.command("INFO", "stats").splitlines() if ":" in line)
    return int(told["total_commands_processed"])
