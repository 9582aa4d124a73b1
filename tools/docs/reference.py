"""The pages of the reference that are made from the sources: for both faces of the Python package, for Node, Rust and the shell."""

import ast
import os
import re
import shutil
import subprocess
import textwrap
from functools import partial
from pathlib import Path

from facts.shell import CommandLine

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "bindings/python/dlock"
TYPEDOC = ROOT / ".cache/docs-node/node_modules/.bin/typedoc"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))

# What a name of the Python package is, by the module that it comes from.
GROUPS = {
    "Functions": {"_program", "_program_sync", "_decorators", "_locked"},
    "Client, lock and lease": {"_client", "_client_sync", "_lock", "_lock_sync", "_lease"},
    "Options": {"_options"},
    "What a client shows": {"_observe", "_holder", "_native"},
    "Errors": {"errors"},
}

FACES = {
    "python.md": (
        "dlock",
        "Python, asyncio",
        "The package `dlock`, for programs with an asyncio event loop. What it shares with `dlock.sync` is on this page too: "
        "options, errors, and what a client shows.",
    ),
    "python-sync.md": (
        "dlock.sync",
        "Python, sync",
        "The module `dlock.sync`, for programs without an event loop: scripts, threads, gevent. Options, errors and what a client "
        "shows are [those of `dlock`](python.md).",
    ),
}

# So many letters are as wide as a page at 1280 pixels.
HELP_WIDTH = 86
OPTION = re.compile(r" +-.*? {2,}| {10}(?=\S)")

# What typedoc repeats of the signature above it.
SAID_BEFORE = re.compile(
    r"^#{3,6} (?:Parameters|Returns|Type Parameters|Implements|Overrides|Inherited from)\n.*?(?=^#{2,6} |^\*\*\*$|^<a id|\Z)",
    re.MULTILINE | re.DOTALL,
)

# A link to nothing is an error. One to what is private leads nowhere on the site, but helps who reads the source.
RUSTDOC = "-D rustdoc::broken_intra_doc_links -A rustdoc::private_intra_doc_links -A rustdoc::redundant_explicit_links"
OF_CRATE = {
    "The crate, with a tour": "index.html",
    "`Client`": "client/struct.Client.html",
    "`Lock`": "lock/struct.Lock.html",
    "`Lease`": "lease/struct.Lease.html",
    "Options": "options/index.html",
    "`Error`": "error/enum.Error.html",
    "What a client shows": "observe/index.html",
    "Backends": "backend/index.html",
    "Everything": "all.html",
}


def write(folder: Path) -> None:
    """Writes all pages, into an empty folder."""
    folder.mkdir(parents=True)
    for name, (module, title, text) in FACES.items():
        (folder / name).write_text(python(module, title, text))
    (folder / "cli.md").write_text(command_line(CommandLine(TARGET / "release/dlock")))
    node(folder)
    rust(folder)


def python(module: str, title: str, text: str) -> str:
    """A page that MkDocs fills in: it reads what stands behind each name."""
    file = PACKAGE / ("__init__.py" if module == "dlock" else f"{module.removeprefix('dlock.')}.py")
    origins = imported(file)
    lines = [f"# {title}", "", text]
    rest = set(origins)
    for heading, modules in GROUPS.items():
        names = [name for name, origin in origins.items() if origin.removeprefix("dlock.") in modules]
        rest -= set(names)
        if names:
            lines += ["", f"## {heading}"]
        for name in names:
            # What errors have in common stands with their base.
            inherited = "false" if heading == "Errors" else "true"
            lines += ["", f"::: {module}.{name}", f"    options: {{ heading_level: 3, inherited_members: {inherited} }}"]
    if rest:
        raise SystemExit(f"tools/docs/reference.py: what are {', '.join(sorted(rest))} of {module}?")
    return "\n".join([*lines, ""])


def imported(file: Path) -> dict[str, str]:
    """What a module exports, and where each name comes from."""
    body = ast.parse(file.read_text()).body
    exported = next(node.value for node in body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__")
    imports = [node for node in body if isinstance(node, ast.ImportFrom)]
    origins = {alias.asname or alias.name: node.module or "" for node in imports for alias in node.names}
    return {name: origins[name] for name in ast.literal_eval(exported) if name not in {"__version__", "sync"}}


def command_line(program: CommandLine) -> str:
    lines = ["# Command line help", "", "What `dlock --help` prints, and the help of each command."]
    for command in [(), *((name,) for name in program.commands)]:
        lines += ["", f"## {' '.join(['dlock', *command])}", "", *shown(program.help(*command))]
    return "\n".join([*lines, ""])


def shown(text: str) -> list[str]:
    paragraphs = [paragraph.strip("\n").splitlines() for paragraph in text.strip().split("\n\n")]
    return ["```text", *"\n\n".join("\n".join(wrapped(lines)) for lines in paragraphs).splitlines(), "```"]


def wrapped(lines: list[str]) -> list[str]:
    """A paragraph that fits the page. A table keeps its lines; what an option does is wrapped in its column, as in a terminal."""
    fit = partial(textwrap.wrap, width=HELP_WIDTH, break_long_words=False, break_on_hyphens=False)
    if not any(line.startswith(" ") for line in lines):
        return fit(" ".join(lines))
    fitting = []
    for line in lines:
        option = OPTION.match(line)
        fitting += fit(line, subsequent_indent=" " * option.end()) if option else [line.rstrip()]
    return fitting


def node(folder: Path) -> None:
    # It makes its folder empty.
    out = folder / "node"
    run([TYPEDOC, "--logLevel", "Warn", "--options", ROOT / "tools/docs/typedoc.json", "--out", out])
    text = SAID_BEFORE.sub("", (out / "node.md").read_text())
    # Escapes that other readers of markdown know.
    text = text.replace("\\<", "&lt;").replace("\\>", "&gt;")
    text = re.sub(r"^(?!\|).*", lambda line: line.group().replace("\\|", "|"), text, flags=re.MULTILINE)
    (folder / "node.md").write_text(text)
    shutil.rmtree(out)


def rust(folder: Path) -> None:
    """What rustdoc makes, under a page that leads into it."""
    made = TARGET / "doc"
    # Left by another `cargo doc`, other crates would be on the site too.
    shutil.rmtree(made, ignore_errors=True)
    command = ["cargo", "doc", "--quiet", "--locked", "--no-deps", "--lib", "--package", "dlock-engine", "--features", "etcd"]
    run([*command], {"RUSTDOCFLAGS": f"{os.environ.get('RUSTDOCFLAGS', '')} {RUSTDOC}".strip()})
    # What rustdoc's own files say of their licences is no page.
    shutil.copytree(made, folder / "rust", ignore=shutil.ignore_patterns("*.md", ".lock"))
    links = [f"- [{title}](rust/dlock/{page})" for title, page in OF_CRATE.items()]
    text = "The crate is called `dlock-engine`, and a program writes `dlock::`. rustdoc has made these pages of it."
    (folder / "rust.md").write_text("\n".join(["# Rust", "", text, "", *links, ""]))


def run(command: list[str | Path], environment: dict[str, str] | None = None) -> None:
    subprocess.run(command, cwd=ROOT, env=os.environ | (environment or {}), stdin=subprocess.DEVNULL, check=True)
