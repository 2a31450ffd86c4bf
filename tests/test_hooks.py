"""What every hook must be: positional, small, explained, listed in the reference, and used by somebody."""

from __future__ import annotations

import ast
from importlib import import_module
from importlib.metadata import entry_points

import generate
import pytest

HOOKS = generate.hooks()
each_hook = pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.node.name)


def test_there_are_hooks() -> None:
    assert len(HOOKS) >= 12


@each_hook
def test_a_hook_carries_the_prefix(hook: generate.Hook) -> None:
    assert hook.node.name.startswith("agl_")


@each_hook
def test_a_hook_is_synchronous_and_at_module_level(hook: generate.Hook) -> None:
    tree = ast.parse(generate.HOOKSPECS.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [type(node) for node in functions if node.name == hook.node.name] == [ast.FunctionDef]


@each_hook
def test_a_hook_takes_at_most_four_plain_positional_parameters(hook: generate.Hook) -> None:
    parameters = hook.node.args
    assert len(parameters.args) <= 4
    assert not parameters.defaults
    assert not parameters.kwonlyargs
    assert not parameters.posonlyargs
    assert parameters.vararg is None
    assert parameters.kwarg is None


@each_hook
def test_a_hook_is_annotated(hook: generate.Hook) -> None:
    assert hook.node.returns is not None
    assert all(parameter.annotation for parameter in hook.node.args.args)


@each_hook
def test_a_hook_explains_itself_and_each_parameter(hook: generate.Hook) -> None:
    docstring = ast.get_docstring(hook.node) or ""
    assert len(docstring.splitlines()) >= 5
    assert all(f"    {parameter.arg}: " in docstring for parameter in hook.node.args.args)


@each_hook
def test_the_reference_states_the_exact_signature(hook: generate.Hook) -> None:
    reference = (generate.ROOT / "docs/reference/hooks.md").read_text()
    assert f"```python\ndef {hook.signature}: ...\n```" in reference


@each_hook
def test_an_installed_package_implements_the_hook(hook: generate.Hook) -> None:
    plugins = [import_module(entry.module) for entry in entry_points(group="agentlightning")]
    assert any(callable(getattr(plugin, hook.node.name, None)) for plugin in plugins)
