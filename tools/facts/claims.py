"""Which table of the documentation must name what of the code.

A table is found by its page, the heading above it and the head of a column. Names stand there in backticks.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from facts import javascript, python, rust
from facts.pages import Row
from facts.shell import CommandLine

CORE = "rust-core/src"
PACKAGE = "bindings/python/dlock"
STUB = f"{PACKAGE}/_native.pyi"
NODE = "bindings/node"
TYPES, SEEN = f"{NODE}/index.d.ts", f"{NODE}/observe.d.ts"
OPTIONS, ERRORS = f"{CORE}/options.rs", f"{CORE}/error.rs"

Read = Callable[[Row], Iterable[str]]


@dataclass(frozen=True)
class Claim:
    """What a column of the tables under a heading must name."""

    page: str
    section: str
    column: str
    names: set[str]
    source: str
    """Where the code has the names."""
    read: Read
    whole: bool = True
    """The page must have every name. Otherwise it only must not have another one."""


def claim(place: tuple[str, str, str], names: Iterable[str], source: str, read: Read | None = None, *, whole: bool = True) -> Claim:
    page, section, column = place
    return Claim(f"docs/reference/{page}.md", section, column, set(names), source, read or (lambda row: row.spans(column)), whole)


def pairs(first: str, second: str) -> Read:
    """Each name of one column with each of the other."""
    return lambda row: [f"{one}: {other}" for one in row.spans(first) for other in row.spans(second)]


def joined(found: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{one}: {other}" for one, other in found]


def default_of(names: set[str]) -> Read:
    """The default of each option of these, which begins its cell."""

    def read(row: Row) -> Iterator[str]:
        value = row.cells["default"].partition(",")[0].strip("` ")
        yield from (f"{name}: {value}" for name in row.spans("Rust") if name in names)

    return read


class Claims:
    """The claims about a tree."""

    def __init__(self, root: Path, program: Path) -> None:
        self.root = root
        self.program = CommandLine(program)

    def all(self) -> list[Claim]:
        pages = (self.options, self.calls, self.errors, self.urls, self.environment, self.metrics, self.seen, self.logs, self.shell)
        return [found for page in pages for found in page()]

    def options(self) -> Iterator[Claim]:
        typed = f"{PACKAGE}/_options.py"
        places = {
            "A client": ("ClientOptions", OPTIONS),
            "A lock": ("LockOptions", OPTIONS),
            "Retry": ("Retry", f"{CORE}/options/retry.rs"),
            "Renewal": ("Renewal", f"{CORE}/options/renewal.rs"),
        }
        for section, (name, source) in places.items():
            beside = {"url"} if section == "A client" else set()
            python_names = python.fields(self.root / typed, name) | beside
            yield claim(("options", section, "Python"), python_names, f"{name} in {typed}")
            yield claim(("options", section, "Node"), javascript.members(self.root / TYPES, name) | beside, f"{name} in {TYPES}")
            yield claim(("options", section, "Rust"), rust.fields(self.root / source, name), f"{name} in {source}")
            defaults = rust.defaults(self.root / source, name)
            read = default_of({option for option, _ in defaults})
            yield claim(("options", section, "default"), joined(defaults), f"the defaults of {name} in {source}", read)
        acquire = python.arguments(self.root / STUB, "SyncLock", "acquire")
        yield claim(("options", "One acquire", "Python"), acquire, f"SyncLock.acquire in {STUB}")
        node = javascript.members(self.root / TYPES, "AcquireOptions")
        yield claim(("options", "One acquire", "Node"), node, f"AcquireOptions in {TYPES}")
        yield from self._flags_of_options()

    def _flags_of_options(self) -> Iterator[Claim]:
        flags = self.program.flags
        shared = set.intersection(*(flags[name] for name in flags if name != "health"))
        own = flags["run"] - shared
        retry = {flag for flag in own if flag.startswith("--retr")}
        for section, names in {"A client": shared, "A lock": own - retry, "Retry": retry}.items():
            yield claim(("options", section, "Shell"), names, "`dlock run --help`")

    def calls(self) -> Iterator[Claim]:
        handles = f"{PACKAGE}/_handles.py"
        classes = {
            "A client": [(handles, "ClientHandle"), (f"{PACKAGE}/_client.py", "Client"), (f"{PACKAGE}/_client_sync.py", "Client")],
            "A lock": [
                (handles, "LockHandle"),
                (f"{PACKAGE}/_lock.py", "Lock"),
                (f"{PACKAGE}/_lock_sync.py", "Lock"),
                (STUB, "AsyncLock"),
                (STUB, "SyncLock"),
            ],
            "A lease": [
                (STUB, "Lease"),
                (f"{PACKAGE}/_lease.py", "Lease"),
                (f"{PACKAGE}/_lock_sync.py", "Lease"),
                (STUB, "AsyncLease"),
                (STUB, "SyncLease"),
            ],
        }
        node = {"A client": "Client", "A lock": "Lock", "A lease": "Lease"}
        sources = {
            "A client": [f"{CORE}/client.rs", f"{CORE}/client/observe.rs", f"{CORE}/lock.rs"],
            "A lock": [f"{CORE}/lock.rs", f"{CORE}/lock/with.rs", f"{CORE}/lock/settings.rs"],
            "A lease": [f"{CORE}/lease.rs"],
        }
        for section, parts in classes.items():
            found = {member for file, name in parts for member in python.members(self.root / file, name)}
            yield claim(("calls", section, "Python"), found, f"{PACKAGE}")
            name = node[section]
            yield claim(("calls", section, "Node"), javascript.members(self.root / TYPES, name), f"{name} in {TYPES}")
            # The engine has calls for bindings too, which are no calls of users.
            public = rust.public_functions(*(self.root / file for file in sources[section]))
            yield claim(("calls", section, "Rust"), public, ", ".join(sources[section]), whole=False)
        modules = [f"{PACKAGE}/__init__.py", f"{PACKAGE}/sync.py"]
        functions = {name for file in modules for name in python.exported_functions(self.root / file)}
        yield claim(("calls", "The module", "Python"), functions, modules[0])
        yield claim(("calls", "The module", "Node"), javascript.functions(self.root / TYPES), TYPES)

    def errors(self) -> Iterator[Claim]:
        classes = python.codes_of_classes(self.root / f"{PACKAGE}/errors.py")
        source = f"{PACKAGE}/errors.py"
        yield claim(("errors", "Classes", "class"), joined(classes), source, pairs("class", "code"))
        node_codes = javascript.codes_of_classes(self.root / f"{NODE}/errors.js")
        yield claim(("errors", "Classes", "code"), joined(node_codes), f"{NODE}/errors.js", pairs("class", "code"))
        declared = javascript.error_classes(self.root / TYPES)
        yield claim(("errors", "Classes", "class"), declared, TYPES)

        codes = rust.block(self.root / ERRORS, "impl Error")
        of_variants = set(re.findall(r'Self::(\w+) \{ \.\. \} => "([A-Z_]+)"', codes))
        known = {code for _, code in classes}
        with_class = {(variant, code) for variant, code in of_variants if code in known}
        yield claim(("errors", "Classes", "Rust"), joined(with_class), ERRORS, pairs("Rust", "code"))
        exits = "cli/src/exit.rs"
        codes_of_exit = rust.exit_codes_of_errors(self.root / exits)
        yield claim(("errors", "Classes", "Shell"), joined(codes_of_exit), exits, pairs("Rust", "Shell"))

        thrown = javascript.found_in(self.root / NODE, r"LockError\([^)]*code: '(\w+)'")
        others = python.codes_given(self.root / PACKAGE) | thrown | {code for _, code in of_variants}
        yield claim(("errors", "Codes without a class", "code"), others - known, f"{ERRORS}, {PACKAGE} and {NODE}")
        without = {(variant, code) for variant, code in of_variants if code not in known}
        yield claim(("errors", "Codes without a class", "Rust"), joined(without), ERRORS, pairs("Rust", "code"))

        fields = {field for name, _ in classes for field in python.fields(self.root / source, name)}
        yield claim(("errors", "Fields", "Python"), fields, source)
        members = {member for name in declared for member in javascript.members(self.root / TYPES, name)}
        yield claim(("errors", "Fields", "Node"), members, TYPES)
        yield claim(("errors", "Fields", "Rust"), rust.fields_of_variants(self.root / ERRORS, "Error"), ERRORS)
        yield claim(("errors", "Why a lease is lost", "reason"), rust.words(self.root / ERRORS, "LossReason"), ERRORS)
        yield claim(("errors", "Warnings", "Node"), self.warnings(), f"{NODE}/warnings.js")

    def warnings(self) -> set[str]:
        """The codes of the warnings of the Node package."""
        return javascript.found_in(self.root / NODE, r"code: '(DLOCK_\w+)'")

    def urls(self) -> Iterator[Claim]:
        file = f"{CORE}/backend/urls.rs"
        schemes = set(re.findall(r'"([a-z+]+)"(?= \||, _\)| =>)', rust.source(self.root / file)))

        def read(row: Row) -> Iterator[str]:
            yield from (form.partition(":")[0] for form in row.spans("URL"))

        yield claim(("urls", "Forms", "URL"), schemes, file, read)
        files = [f"{CORE}/backend/redis/parameters.rs", f"{CORE}/backend/pem.rs"]
        of_redis = re.findall(r'^            \("(\w+)", ', rust.source(self.root / files[0]), re.MULTILINE)
        of_files = re.findall(r'"(\w+)" => &mut self\.', rust.source(self.root / files[1]))
        yield claim(("urls", "Parameters", "parameter"), [*of_redis, *of_files], ", ".join(files))

    def environment(self) -> Iterator[Claim]:
        yield claim(("environment", "What dlock reads", "variable"), self.variables_read(), "the sources")
        yield claim(("environment", "What a command gets", "variable"), self.variables_given(), "cli/src")

    def variables_read(self) -> set[str]:
        folders = [self.root / folder for folder in (CORE, "cli/src", "bindings/python/src", "bindings/node/src")]
        node = javascript.found_in(self.root / NODE, r"process\.env\.(\w+)")
        logs = javascript.found_in(self.root / NODE, r"= (debuglog)\(")
        return rust.variables_read(*folders) | node | ({"NODE_DEBUG"} if logs else set())

    def variables_given(self) -> set[str]:
        return rust.variables_given(self.root / "cli/src")

    def metrics(self) -> Iterator[Claim]:
        file, words = f"{CORE}/observe/metrics.rs", f"{CORE}/observe/figures.rs"
        found = rust.metrics(self.root / file)
        yield claim(("metrics", "Metrics", "metric"), [name for name, _ in found], file)
        labels = joined((name, label) for name, labels in found for label in labels)
        yield claim(("metrics", "Metrics", "labels"), labels, file, pairs("metric", "labels"))
        values = {"reason": ["LOSSES"], "outcome": ["OUTCOMES", "ANSWERS"], "code": ["CODES"], "operation": ["OPERATIONS"]}
        known = [(label, word) for label, lists in values.items() for name in lists for word in rust.texts(self.root / words, name)]
        yield claim(("metrics", "Labels", "values"), joined(known), words, pairs("label", "values"))

    def series(self) -> set[str]:
        """Every series that a client emits, with the endings that a histogram adds."""
        names = {name for name, _ in rust.metrics(self.root / f"{CORE}/observe/metrics.rs")}
        endings = ("", "_bucket", "_sum", "_count")
        return {f"{name}{ending}" for name in names for ending in endings if name.endswith("_seconds") or not ending}

    def seen(self) -> Iterator[Claim]:
        """What programs see of a client: events, figures, health."""
        events = f"{CORE}/observe/events.rs"
        yield claim(("events", "Events", "event"), rust.words(self.root / events, "Kind"), events)
        observe, holder = f"{PACKAGE}/_observe.py", f"{PACKAGE}/_holder.py"
        stats, contract = f"{CORE}/observe/stats.rs", f"{CORE}/backend/contract.rs"
        tables = {
            ("events", "Fields"): ((STUB, "Event"), (SEEN, "LockEvent"), [(events, "Event")]),
            ("stats", "Stats"): ((observe, "Stats"), (SEEN, "Stats"), [(stats, "Stats")]),
            ("stats", "Health"): ((observe, "Health"), (SEEN, "Health"), [(f"{CORE}/observe/health.rs", "Health")]),
            ("stats", "Capabilities"): ((observe, "Capabilities"), (SEEN, "Capabilities"), [(contract, "Capabilities")]),
            ("stats", "Inspection"): ((holder, "Inspection"), (SEEN, "Inspection"), [(contract, "Inspection")]),
            ("stats", "Holder"): (
                (holder, "Holder"),
                (SEEN, "Holder"),
                [(f"{CORE}/holder.rs", "Holder"), (f"{CORE}/holder.rs", "Note")],
            ),
        }
        for (page, section), ((file, name), (types, other), structs) in tables.items():
            yield claim((page, section, "Python"), python.fields(self.root / file, name), f"{name} in {file}")
            yield claim((page, section, "Node"), javascript.members(self.root / types, other), f"{other} in {types}")
            fields = {field for source, struct in structs for field in rust.fields(self.root / source, struct)}
            yield claim((page, section, "Rust"), fields, f"{structs[0][1]} in {structs[0][0]}")
        for section, name in {"Lag": "Lag", "Calls": "Calls"}.items():
            yield claim(("stats", section, "field"), python.fields(self.root / observe, name), f"{name} in {observe}")
            yield claim(("stats", section, "field"), rust.fields(self.root / stats, name), f"{name} in {stats}")

    def logs(self) -> Iterator[Claim]:
        file = f"{CORE}/observe/logs.rs"
        targets = re.findall(r'^    pub\(crate\) const \w+: &str = "([\w:]+)"', rust.source(self.root / file), re.MULTILINE)
        yield claim(("logs", "Loggers", "target"), targets, file)

    def shell(self) -> Iterator[Claim]:
        program = self.program
        yield claim(("shell", "Commands", "command"), [f"dlock {name}" for name in program.commands], "`dlock --help`")
        known = [(name, flag) for name, flags in program.flags.items() for flag in flags]
        yield claim(("shell", "Flags", "flag"), joined(known), "the help of each command", pairs("commands", "flag"))
        yield claim(("shell", "Flags of all commands", "flag"), program.global_flags, "`dlock --help`")
        codes = set(rust.exit_codes(self.root / "cli/src/exit.rs").values()) | {"0", "1", "128+n"}
        yield claim(("shell", "Exit codes", "code"), codes, "cli/src/exit.rs")
