"""On what was measured: the machine and the versions."""

import json
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from contenders import BUILT, PEERS, ROOT


def described() -> dict[str, str]:
    return {
        "day": datetime.now(UTC).date().isoformat(),
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "kernel": platform.release().partition("-")[0],
        "kind": "virtual machine" if is_virtual() else "machine",
        "commit": said(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]),
        "redis-server": found(r"v=([\d.]+)", said(["redis-server", "--version"])),
        "etcd": found(r"etcd Version: ([\d.]+)", said(["etcd", "--version"])),
        "Python": platform.python_version(),
        "Node": said(["node", "--version"]).lstrip("v"),
        "Go": found(r"go([\d.]+)", said(["go", "version"])),
        "Java": found(r'version "([\d.]+)', said(["java", "-version"])),
        "rustc": found(r"rustc ([\d.]+)", said(["rustc", "--version"])),
        **libraries(),
    }


def libraries() -> dict[str, str]:
    """The versions of the peers, as their lock files pin them."""
    pinned: dict[str, str] = {}
    for file in (PEERS / "python/requirements.txt", PEERS / "python/requirements-etcd3.txt"):
        for name, version in re.findall(r"^([\w-]+)==([\w.]+)", file.read_text(), re.MULTILINE):
            if name in {"filelock", "portalocker", "python-redis-lock", "etcd3"}:
                pinned[f"{name} (Python)"] = version
    pinned["redis-py"] = found(r"^redis==([\w.]+)", (ROOT / "requirements-dev.txt").read_text())
    for name, version in json.loads((PEERS / "node/package.json").read_text())["dependencies"].items():
        pinned[f"{name} (Node)"] = version
    for path, version in re.findall(r"^\s+(?:require )?(\S+) v(\S+)$", (PEERS / "go/go.mod").read_text(), re.MULTILINE):
        pinned[f"{path} (Go)"] = version
    pinned |= {f"{name} (Rust)": version for name, version in crates(["rslock", "fs4"]).items()}
    if (BUILT / "java/peers.jar").exists():
        pinned["Redisson (Java)"] = found(r"<redisson.version>([\d.]+)<", (PEERS / "java/pom.xml").read_text())
    return {name: version for name, version in pinned.items() if version}


def crates(names: list[str]) -> dict[str, str]:
    lock = (PEERS / "rust/Cargo.lock").read_text()
    return {name: found(rf'name = "{name}"\nversion = "([^"]+)"', lock) for name in names}


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def is_virtual() -> bool:
    return bool(re.search(r"^flags\s*:.*\bhypervisor\b", Path("/proc/cpuinfo").read_text(), re.MULTILINE))


def said(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return (done.stdout + done.stderr).strip()


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    return match.group(1) if match else ""
