"""What the command line has, as its help says."""

import re
import subprocess
from functools import cached_property
from pathlib import Path

COMMAND = re.compile(r"^  (\w[\w-]*)(?:  |$)", re.MULTILINE)
FLAG = re.compile(r"^\s+(?:-\w, )?(--[\w-]+)", re.MULTILINE)


class CommandLine:
    """A program that was built."""

    def __init__(self, program: Path) -> None:
        self._program = program

    def help(self, *command: str) -> str:
        asked = [self._program, *command, "--help"]
        return subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout

    @cached_property
    def commands(self) -> list[str]:
        listed = self.help().partition("Commands:\n")[2].partition("\n\n")[0]
        return [name for name in COMMAND.findall(listed) if name != "help"]

    @cached_property
    def global_flags(self) -> set[str]:
        """Those that may stand before a command, and `--version`, which only may."""
        return set(FLAG.findall(self.help()))

    @cached_property
    def flags(self) -> dict[str, set[str]]:
        """Those of each command."""
        return {name: set(FLAG.findall(self.help(name))) - self.global_flags for name in self.commands}
