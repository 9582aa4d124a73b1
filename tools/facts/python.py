"""What the Python package has, read from its sources."""

import ast
from collections.abc import Iterator
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef


def classes(file: Path) -> Iterator[ast.ClassDef]:
    return (node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef))


def the_class(file: Path, name: str) -> ast.ClassDef:
    return next(node for node in classes(file) if node.name == name)


def is_public(name: str) -> bool:
    return not name.startswith("_")


def fields(file: Path, name: str) -> set[str]:
    """The annotated fields of a class, and its properties."""
    body = the_class(file, name).body
    annotated = {node.target.id for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    properties = {node.name for node in body if isinstance(node, ast.FunctionDef) and is_property(node)}
    return {field for field in annotated | properties if is_public(field)}


def is_property(node: ast.FunctionDef) -> bool:
    return "property" in map(ast.unparse, node.decorator_list)


def members(file: Path, *names: str) -> set[str]:
    """The public methods, properties and slots of classes."""
    found: set[str] = set()
    for name in names:
        for node in the_class(file, name).body:
            if isinstance(node, Function):
                found.add(node.name)
            if isinstance(node, ast.Assign) and "__slots__" in map(ast.unparse, node.targets):
                found |= set(ast.literal_eval(node.value))
    return {member for member in found if is_public(member)}


def arguments(file: Path, name: str, method: str) -> set[str]:
    """The arguments of a method, without `self` and those that only collect."""
    found = next(node for node in the_class(file, name).body if isinstance(node, Function) and node.name == method)
    every = [*found.args.posonlyargs, *found.args.args, *found.args.kwonlyargs]
    return {argument.arg for argument in every} - {"self"}


def exported_functions(file: Path) -> set[str]:
    """The functions that a module exports: by the custom of names, what begins with a small letter."""
    body = ast.parse(file.read_text()).body
    exported = next(node for node in body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__")
    return {name for name in ast.literal_eval(exported.value) if name[0].islower() and name != "sync"}


def codes_of_classes(file: Path) -> set[tuple[str, str]]:
    """Each error class, and its code."""
    found = set()
    for node in classes(file):
        for statement in node.body:
            target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
            if isinstance(target, ast.Name) and target.id == "code" and isinstance(statement, ast.Assign | ast.AnnAssign):
                found.add((node.name, ast.literal_eval(statement.value or ast.Constant(""))))
    return found


def codes_given(folder: Path) -> set[str]:
    """The codes that are given to errors where they are raised."""
    calls = (node for file in folder.glob("*.py") for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call))
    given = (word.value for call in calls for word in call.keywords if word.arg == "code")
    return {value.value for value in given if isinstance(value, ast.Constant)}
