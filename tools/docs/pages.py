"""Pages of the site that are not in docs/: those of the tree's root, and what tools/make-docs has generated. A hook of MkDocs.

Links are written as they work on a code host. Here each leads to its page on the site, or, where the site has none, to the file in
the repository.
"""

import os
import re
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from facts.pages import FENCE  # noqa: E402 - found through the line above

GENERATED = ROOT / ".cache/docs"
REPOSITORY = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["repository"]

# Which page of the site a file of the root is.
OF_ROOT = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing/index.md",
    "ARCHITECTURE.md": "contributing/architecture.md",
    "CHANGELOG.md": "contributing/changelog.md",
}
DECISIONS = "adr/"
ADRS = sorted((ROOT / "docs/adr").glob("[0-9]*.md"))

LINK = re.compile(r"(\]\()([^)\s]+)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    config.nav = expanded(config.nav)
    return config


def expanded(entry: object) -> object:
    """A navigation with the ADRs in the place of their folder."""
    if isinstance(entry, list):
        return [expanded(each) for each in entry]
    if isinstance(entry, dict):
        return {title: expanded(each) for title, each in entry.items()}
    return [f"{DECISIONS}index.md", *(f"{DECISIONS}{file.name}" for file in ADRS)] if entry == DECISIONS else entry


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    for name, page in OF_ROOT.items():
        # A page of docs/ goes before one of the root.
        if files.get_file_from_path(page) is None:
            files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    files.append(File.generated(config, f"{DECISIONS}index.md", content=list_of_decisions()))
    for file in sorted(GENERATED.rglob("*")):
        if file.is_file():
            files.append(File.generated(config, file.relative_to(GENERATED).as_posix(), abs_src_path=str(file)))
    return files


def list_of_decisions() -> str:
    titles = [(file.name, file.read_text().partition("\n")[0].removeprefix("# ")) for file in ADRS]
    lines = [f"- [{title}]({name})" for name, title in titles]
    return "\n".join(["# Decisions", "", "What somebody might want to undo, with the measured reason.", "", *lines, ""])


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    if page.file.src_uri in config.extra["wide"]:
        page.meta["hide"] = ["toc"]
    source = Path(page.file.abs_src_path) if page.file.abs_src_path else None
    if source is None or source.is_relative_to(GENERATED):
        return markdown
    known = {Path(file.abs_src_path).resolve(): file.src_uri for file in files if file.abs_src_path}
    known[ROOT / "docs/adr"] = f"{DECISIONS}index.md"

    def replace(found: re.Match[str]) -> str:
        return found.group(1) + leading(found.group(2), source, page.file.src_uri, known)

    fences = [found.group() for found in FENCE.finditer(markdown)]
    parts = [LINK.sub(replace, part) for part in FENCE.sub("\0", markdown).split("\0")]
    return "".join(part + fence for part, fence in zip(parts, [*fences, ""], strict=True))


def leading(target: str, source: Path, page: str, known: dict[Path, str]) -> str:
    """A link of the file `source` for the page that it is on the site."""
    address = urlsplit(target)
    if address.scheme or not address.path:
        return target
    file = (source.parent / address.path).resolve()
    fragment = f"#{address.fragment}" if address.fragment else ""
    if file in known:
        return os.path.relpath(known[file], Path(page).parent) + fragment
    if file.is_relative_to(ROOT) and file.exists():
        kind = "tree" if file.is_dir() else "blob"
        return f"{REPOSITORY}/{kind}/main/{file.relative_to(ROOT).as_posix()}{fragment}"
    return target  # MkDocs complains of it
