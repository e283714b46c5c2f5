"""The code behind a kept stage: a digest that changes when a module does, or any of ours that it imports."""

import ast
import hashlib
import importlib
import threading
from functools import cache
from pathlib import Path

from doorstep_converters.students import MODELS

_OURS = ("doorstep_converters.", "doorstep_runtimes.")
# CPython 3.11 counts the depth of a tree once for all threads that parse: github.com/python/cpython/issues/106905
_PARSING = threading.Lock()
_BY_NAME = {"doorstep_converters.students": [module for module, _ in MODELS.values()]}  # imported by name
_MESSENGER = "doorstep_converters.worker"  # carries a job's messages and computes nothing


def source_digest(module: str) -> str:
    """Return the sha256 over the sources of `module` and of the workshop's and adapters' modules it imports."""
    digest = hashlib.sha256()
    for name in sorted(_reached(module)):
        digest.update(name.encode() + b"\0" + _source(name) + b"\0")
    return digest.hexdigest()


@cache
def whole_digest() -> str:
    """Return the sha256 over all of the workshop's and adapters' modules."""
    digest = hashlib.sha256()
    for top in _OURS:
        for place in importlib.import_module(top.rstrip(".")).__path__:
            for file in sorted(Path(place).rglob("*.py")):
                digest.update(file.relative_to(place).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


@cache
def _reached(module: str) -> frozenset[str]:
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += [*_imported(name), *(f"{name}.{part}" for part in _BY_NAME.get(name, ()))]
    return frozenset(reached)


def _imported(module: str) -> list[str]:
    """Return our modules named by the import statements of `module`; `from package import name` may mean either."""
    names: list[str] = []
    with _PARSING:
        tree = ast.parse(_source(module))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.startswith(_OURS) and name != _MESSENGER and _source(name)]


@cache
def _source(module: str) -> bytes:
    """Return the bytes of a module's file, which is not imported; nothing where there is no such module."""
    top, *parts = module.split(".")
    for place in importlib.import_module(top).__path__:
        for file in (Path(place, *parts).with_suffix(".py"), Path(place, *parts, "__init__.py")):
            if file.is_file():
                return file.read_bytes()
    return b""
