"""Every public class, function, method and property says what it does."""

import ast
from pathlib import Path

import pytest

import hmt

SOURCE = Path(hmt.__file__).parent
DOCUMENTED = ("config.py", "model", "memory", "backbone", "systems", "training", "bench")
FILES = sorted(
    file.relative_to(SOURCE).as_posix()
    for place in map(SOURCE.joinpath, DOCUMENTED)
    for file in (place.rglob("*.py") if place.is_dir() else [place])
)
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def is_protocol(node: ast.ClassDef) -> bool:
    return any(
        isinstance(name, ast.Name) and name.id == "Protocol" for base in node.bases for name in ast.walk(base)
    )


def undocumented(body: list[ast.stmt], prefix: str = "") -> list[str]:
    """Public classes, functions and methods without a docstring; nested functions are private."""
    missing = []
    for node in body:
        if not isinstance(node, (*FUNCTION, ast.ClassDef)) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            missing.append(prefix + node.name)
        if isinstance(node, ast.ClassDef) and not is_protocol(node):
            missing += undocumented(node.body, f"{prefix}{node.name}.")
    return missing


@pytest.mark.parametrize("file", FILES)
def test_public_names_have_docstrings(file: str) -> None:
    missing = undocumented(ast.parse((SOURCE / file).read_text(encoding="utf-8")).body)
    assert not missing, f"{file}: no docstring: {', '.join(missing)}"


def test_the_check_sees_what_lacks_a_docstring() -> None:
    source = """
class Stub(Protocol[T]):
    'said'
    def stub(self): ...
class Class:
    def method(self):
        'said'
        def nested(): pass
    def bare(self): pass
    def _private(self): pass
def function(): pass
"""
    assert undocumented(ast.parse(source).body) == ["Class", "Class.bare", "function"]
