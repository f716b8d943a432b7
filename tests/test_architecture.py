"""The project's shape: which way imports run, how long a file may be, what a module must say of itself."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("events", "storage", "engine")

IMPURE = {
    *("asyncio", "concurrent", "ctypes", "datetime", "fcntl", "glob", "http", "io", "lmdb", "logging", "mmap"),
    *(
        "multiprocessing",
        "os",
        "pathlib",
        "queue",
        "random",
        "resource",
        "sched",
        "secrets",
        "select",
        "selectors",
    ),
    *("shutil", "signal", "socket", "ssl", "subprocess", "sys", "tempfile", "threading", "time", "trio", "uuid"),
}
"""What would let the core see a clock, chance, the host or another thread."""

PURE_USE = {
    ("events/errors.py", "os"): {"strerror"},  # turns a number into words; asks nothing of the host
    ("events/signals.py", "signal"): {"SIGRTMAX", "SIGRTMIN", "Signals"},  # constants by name; sends nothing
}
"""The exceptions, and the only attributes that each may use."""

NO_ALL = ("__init__.py", "__main__.py")
VAGUE = frozenset(("common", "helper", "helpers", "misc", "tools", "util", "utils"))


def sources(*directories: str) -> list[str]:
    found = (path for name in directories for path in (ROOT / name).rglob("*.py"))
    return sorted(path.relative_to(ROOT).as_posix() for path in found if "__pycache__" not in path.parts)


CODE = sources(*PACKAGES)
PURE = sources("events")
BLOCKING = sources("storage")
EVERYTHING = [*CODE, *sources("tests", "bench", "examples")]


@functools.cache
def parsed(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(), path)


def imported(path: str, *, at_import: bool = False) -> set[str]:
    """Full dotted names that ``path`` imports; with ``at_import``, only what importing it imports."""
    walk = _at_import(parsed(path)) if at_import else ast.walk(parsed(path))
    names = set()
    for node in walk:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _at_import(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            continue
        yield child
        yield from _at_import(child)


def tops(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def ours(names: set[str]) -> set[str]:
    """The packages of ours among ``names``; ``lading`` itself counts as all of them."""
    parts = [name.split(".") for name in names if name.partition(".")[0] == "lading"]
    return {part[1] if len(part) > 1 and part[1] in PACKAGES else "lading" for part in parts}


def public(path: str) -> list[str] | None:
    """The module's ``__all__``, or None."""
    for node in parsed(path).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    return None


def test_there_is_something_to_check() -> None:
    """The checks below would pass over nothing if the layout changed."""
    assert {"events/container.py", "storage/log.py", "engine/history/journal.py"} <= set(CODE)
    assert "tests/test_architecture.py" in EVERYTHING
    assert {"lading.events.codec.GENESIS", "lmdb"} <= imported("storage/log.py")
    assert public("events/facts.py") == ["Event", "ImageEvent", "TransferEvent"]


@pytest.mark.parametrize("path", PURE)
def test_core_is_pure(path: str) -> None:
    """events/ imports nothing that could give two answers, and nothing of the layers above."""
    names = imported(path)
    allowed = {module for file, module in PURE_USE if file == path}
    assert not tops(names) & IMPURE - allowed
    assert ours(names) <= {"events"}


@pytest.mark.parametrize(("path", "module"), PURE_USE)
def test_exceptions_to_purity_are_what_they_claim(path: str, module: str) -> None:
    used = {
        node.attr
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == module
    }
    assert used <= PURE_USE[path, module]
    assert not any(name.startswith(f"{module}.") for name in imported(path))


@pytest.mark.parametrize("path", BLOCKING)
def test_storage_knows_neither_trio_nor_the_engine(path: str) -> None:
    names = imported(path)
    assert not tops(names) & {"asyncio", "outcome", "trio"}
    assert ours(names) <= {"events", "storage"}


@pytest.mark.parametrize("path", CODE)
def test_packages_do_not_import_the_public_face(path: str) -> None:
    """``lading`` is for users: a package that imported it would import everything, in a circle."""
    assert "lading" not in ours(imported(path))


@pytest.mark.parametrize("path", CODE)
def test_click_and_rich_cost_nothing_until_they_are_used(path: str) -> None:
    eager = tops(imported(path, at_import=True))
    assert "rich" not in eager
    if not path.startswith("engine/cli"):
        assert "click" not in eager


def test_keeper_is_without_a_database() -> None:
    """Who outlives the engine stays small and quick to start: nothing that it imports, imports the log."""
    seen: set[str] = set()
    waiting = ["lading.engine.keeper.keeper"]
    while waiting:
        name = waiting.pop()
        path = f"{name.removeprefix('lading.').replace('.', '/')}.py"
        if name not in seen and path in CODE:
            seen.add(name)
            found = imported(path, at_import=True)
            assert not tops(found) & {"lmdb", "httpx", "h11", "click", "rich"}, path
            waiting += [*found, *(each.rpartition(".")[0] for each in found)]
    assert "lading.engine.keeper.run" in seen


@pytest.mark.parametrize("path", EVERYTHING)
def test_file_is_at_most_500_lines(path: str) -> None:
    assert len((ROOT / path).read_text().splitlines()) <= 500


@pytest.mark.parametrize("path", EVERYTHING)
def test_file_is_named_for_what_it_holds(path: str) -> None:
    assert not set(Path(path).with_suffix("").parts) & VAGUE


@pytest.mark.parametrize("path", EVERYTHING)
def test_module_says_what_it_is(path: str) -> None:
    assert ast.get_docstring(parsed(path))


@pytest.mark.parametrize("path", [path for path in CODE if not path.endswith(NO_ALL)])
def test_module_names_what_it_offers(path: str) -> None:
    """``__all__`` is there, each name in it is defined there, and each public function and class is explained."""
    names = public(path)
    assert names is not None
    assert len(set(names)) == len(names)
    body = {
        node.name: node
        for node in parsed(path).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    assigned = {
        node.id
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    assert set(names) - body.keys() - assigned - {name.rpartition(".")[2] for name in imported(path)} == set()
    assert [name for name in names if name in body and not ast.get_docstring(body[name])] == []
