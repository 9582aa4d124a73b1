"""The wall clock of one server, which may be set: a library between the server and the kernel adds to what it reads.

The clock of the machine is left alone, and so are the server's other clocks. See `tools/fetch-faketime`.
"""

from pathlib import Path

LIBRARIES = Path(__file__).resolve().parents[2] / ".cache/services/lib"
LIBRARY = "libfaketimeMT.so.1"
SHARED = Path("/dev/shm")


class WallClock:
    """Starts right. All times are in seconds."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "wall-clock"
        self._ahead = 0.0
        self._most = 0.0
        self._write()

    @staticmethod
    def can_be_had() -> bool:
        return (LIBRARIES / LIBRARY).exists()

    @property
    def enter(self) -> list[str]:
        """Words before the command line of a server: it has this clock."""
        # The library must find the C library before another allocator, which would read the clock while it starts.
        settings = {
            "LD_LIBRARY_PATH": LIBRARIES,
            "LD_PRELOAD": f"{LIBRARY}:libc.so.6",
            "FAKETIME_TIMESTAMP_FILE": self._file,
            "FAKETIME_NO_CACHE": 1,
            "FAKETIME_DONT_FAKE_MONOTONIC": 1,
        }
        return ["env", *(f"{name}={value}" for name, value in settings.items())]

    @property
    def behind(self) -> float:
        """By how much it was set back from the furthest that it has ever been ahead."""
        return self._most - self._ahead

    def step(self, seconds: float) -> None:
        """Sets the clock ahead, or back; whoever reads it sees that at once."""
        self._ahead += seconds
        self._most = max(self._most, self._ahead)
        self._write()

    def tidy(self, pid: int) -> None:
        """Removes what the library shares with children, of which this process has none, and leaves behind when it is killed."""
        for name in (f"faketime_shm_{pid}", f"sem.faketime_sem_{pid}"):
            (SHARED / name).unlink(missing_ok=True)

    def _write(self) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(f"{self._ahead:+.6f}\n")
        new.replace(self._file)
