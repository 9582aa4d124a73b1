"""Who imports whom in a Python package, and imports of a module that do not name it."""

import ast
from collections.abc import Iterator
from pathlib import Path

from layers.imports import Import


def imports(package: Path) -> Iterator[Import]:
    for file, node in import_nodes(package):
        for name in named_modules(package, file, node):
            target = file_of(package, name)
            if target is not None:
                yield Import(file, node.lineno, target)


def from_package(package: Path) -> Iterator[tuple[Path, int, str]]:
    """Imports inside the package that take a module from the package: file, line and the module's name."""
    for file, node in import_nodes(package):
        if isinstance(node, ast.ImportFrom) and absolute(package, file, node) == package.name:
            for alias in node.names:
                if file_of(package, f"{package.name}.{alias.name}") is not None or alias.name == "_native":
                    yield file, node.lineno, alias.name


def import_nodes(package: Path) -> Iterator[tuple[Path, ast.Import | ast.ImportFrom]]:
    for file in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield file, node


def named_modules(package: Path, file: Path, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    module = absolute(package, file, node)
    for alias in node.names:
        submodule = f"{module}.{alias.name}"
        yield submodule if file_of(package, submodule) is not None else module


def absolute(package: Path, file: Path, node: ast.ImportFrom) -> str:
    """The module that follows `from`, with the dots of a relative import replaced by the packages that they stand for."""
    if node.level == 0:
        return node.module or ""
    around = [package.name, *file.relative_to(package).parts[:-1]]
    return ".".join([*around[: len(around) - node.level + 1], *filter(None, [node.module])])


def file_of(package: Path, module: str) -> Path | None:
    """The source of a module; nothing for those of others, and for the extension."""
    first, *rest = module.split(".")
    if first != package.name:
        return None
    path = package.joinpath(*rest)
    for file in (path.with_suffix(".py") if rest else path / "__init__.py", path / "__init__.py"):
        if file.is_file():
            return file
    return None
