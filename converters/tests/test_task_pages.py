"""The first lines of every task's page, as a user types them: options, names and attributes that there are."""

import argparse
import ast
import builtins
import importlib
import inspect
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from doorstep.cli.main import VERBS
from doorstep.explain import Explanation
from doorstep.predictor import Predictor
from doorstep.results import Heard
from doorstep.tasks import TASKS
from doorstep_converters.targets import TARGETS
from doorstep_converters.tasks import TASKS as CONVERTED

PAGES = Path(__file__).parents[2] / "sdk/docs/tasks"
NAMED = sorted(path.stem for path in PAGES.glob("*.md"))
OF_A_USER = {"texts", "photos", "microphone"}
_SPOKEN = ("audio-classification", "automatic-speech-recognition")


def _block(page: str) -> list[str]:
    """Return the lines of a page's first code block, which follows its title."""
    head, block, *_ = page.split("```")
    assert head.startswith("# ") and len(head.strip().splitlines()) == 1, "a page starts with its title, then the code"
    return block.partition("\n")[2].splitlines()


def check_page(page: str, task: str) -> None:
    """Raise AssertionError where the first lines name what there is not."""
    lines = _block(page)
    commands = [line for line in lines if line.startswith("doorstep ")]
    assert commands, "the first line makes a bundle"
    arguments = [_parsed(command) for command in commands]
    code = "\n".join("" if line.startswith("doorstep ") else line for line in lines)
    tree = ast.parse(code)
    compile(tree, "page", "exec")
    _Reader(task).read(tree)
    loaded = [
        node.args[0].value for node in ast.walk(tree) if isinstance(node, ast.Call) and _name(node.func) == "load"
    ]
    assert loaded == [f"dist/{Path(arguments[0].data).name.partition('.')[0]}.bundle"], loaded


def _parsed(command: str) -> Any:
    words = shlex.split(command, comments=True)[1:]
    assert words[0] in VERBS, words[0]
    parser = argparse.ArgumentParser(prog=words[0], exit_on_error=False, allow_abbrev=False)
    importlib.import_module(VERBS[words[0]][0]).add_arguments(parser)
    found, unknown = parser.parse_known_args(words[1:])
    assert not unknown, unknown
    assert found.target in TARGETS, found.target
    assert found.task is None or found.task in CONVERTED, found.task
    return found


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


class _Reader:
    """Follows names, calls and attributes through the lines, as far as annotations tell what they are."""

    def __init__(self, task: str) -> None:
        self.result = _result_of(task)
        self.is_spoken = task in _SPOKEN
        self.names: dict[str, Any] = dict.fromkeys((*dir(builtins), *OF_A_USER), Any)

    def read(self, tree: ast.Module) -> None:
        for statement in tree.body:
            self._statement(statement)

    def _statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"
                self.names[alias.name] = getattr(module, alias.name)
        elif isinstance(node, ast.With):
            for item in node.items:
                self._bind(item.optional_vars, self._kind(item.context_expr))
            self._all(node.body)
        elif isinstance(node, ast.For):
            self._bind(node.target, _element(self._kind(node.iter)))
            self._all(node.body)
        elif isinstance(node, ast.Assign):
            self._bind(node.targets[0], self._kind(node.value))
        elif isinstance(node, ast.Expr):
            self._kind(node.value)
        else:
            raise AssertionError(f"a page's first lines are simple; got {ast.unparse(node)}")

    def _all(self, nodes: list[ast.stmt]) -> None:
        for node in nodes:
            self._statement(node)

    def _bind(self, target: ast.expr | None, kind: Any) -> None:
        if isinstance(target, ast.Tuple):
            for part in target.elts:
                of_many = isinstance(part, ast.Starred)
                self._bind(part.value if of_many else part, kind if of_many else _element(kind))  # type: ignore[union-attr]
        elif isinstance(target, ast.Name):
            self.names[target.id] = kind

    def _kind(self, node: ast.expr) -> Any:
        """Return the type of an expression, Any where nothing tells it."""
        if isinstance(node, ast.Name):
            assert node.id in self.names, f"nothing is called {node.id}"
            return self.names[node.id]
        if isinstance(node, ast.Attribute):
            return _attribute(self._kind(node.value), node.attr)
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, (ast.ListComp, ast.GeneratorExp)):
            for part in node.generators:
                self._bind(part.target, _element(self._kind(part.iter)))
            return list[self._kind(node.elt)]  # type: ignore[misc]
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self._kind(child)
        return Any

    def _call(self, node: ast.Call) -> Any:
        called = self._kind(node.func)
        for part in (*node.args, *(word.value for word in node.keywords)):
            self._kind(part)
        if callable(called) and called is not Any and not isinstance(called, type):
            known = inspect.signature(called).parameters
            assert {str(word.arg) for word in node.keywords} <= set(known), ast.unparse(node)
        many = list[Heard if self.is_spoken else self.result]  # type: ignore[misc]
        answers = {
            "load": Predictor, "predict": self.result, "predict_many": list[self.result], "explain": Explanation,  # type: ignore[name-defined]
            "stream": many,
        }  # fmt: skip
        return answers.get(_name(node.func), Any)


def _result_of(task: str) -> Any:
    """Return what a task's `results` says it gives for one item."""
    module = importlib.import_module(TASKS[task])
    (found,) = (kind for _, kind in inspect.getmembers(module, inspect.isclass)
                if kind.__module__ == module.__name__ and hasattr(kind, "results"))  # fmt: skip
    annotation = found.results.__annotations__["return"]
    if isinstance(annotation, str):
        annotation = eval(annotation, vars(module))
    (kind,) = get_args(annotation)
    return get_args(kind)[0] if isinstance(kind, UnionType) else kind


def _element(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) in (list, tuple, Iterator) else Any


def _attribute(kind: Any, name: str) -> Any:
    if kind is Any or get_origin(kind) is not None:
        return Any
    assert hasattr(kind, name), f"{getattr(kind, '__name__', kind)} has no {name}"
    found = getattr(kind, name)
    return found if callable(found) else get_type_hints(kind).get(name, Any)


def test_every_task_has_a_page() -> None:
    assert set(TASKS) - {"tensors"} <= set(NAMED)
    assert set(CONVERTED) <= set(NAMED)
    assert set(NAMED) - set(TASKS) == {"multi-label"}


@pytest.mark.parametrize("name", NAMED)
def test_the_first_lines_of_a_page_are_those_that_a_user_types(name: str) -> None:
    check_page(
        (PAGES / f"{name}.md").read_text(encoding="utf-8"), "text-classification" if name == "multi-label" else name
    )


GOOD = """# text-classification: a page

```
doorstep convert ./mine --target arm64 --data reviews.csv   # a comment

from doorstep import Predictor

with Predictor.load("dist/reviews.bundle") as predictor:
    for answer in predictor.stream(texts):
        print(answer.label, answer.scores)
```
"""


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("--data", "--dada"),
        ("convert", "konvert"),
        ("arm64", "arm65"),
        ("import Predictor", "import Predictors"),
        ("from doorstep import Predictor", ""),
        ("predictor.stream", "predictor.streams"),
        ("answer.label", "answer.lable"),
        ("stream(texts)", "stream(things)"),
        ("stream(texts)", "stream(texts, size=3)"),
        ("dist/reviews", "dist/other"),
        ("texts):", "texts:"),
        ("doorstep convert", "Make it with doorstep"),
        ("\n\n```", "\n\nFirst of all, some words.\n\n```"),
    ],
)
def test_a_page_that_rotted_is_found_out(right: str, wrong: str) -> None:
    check_page(GOOD, "text-classification")
    broken = GOOD.replace(right, wrong, 1)
    assert broken != GOOD
    with pytest.raises((AssertionError, SyntaxError, argparse.ArgumentError, SystemExit)):
        check_page(broken, "text-classification")
