"""Functions and attributes that are replaced until they are put back."""

from __future__ import annotations

from contextlib import ExitStack
from types import ModuleType
from typing import Any

import wrapt

from lightning_adapter_openai.patches import each_subclass, replace, wrap


def doubled(method: Any, _: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return 2 * method(*args, **kwargs)


def test_an_inherited_method_is_wrapped_where_it_is_and_put_back() -> None:
    class Base:
        def value(self) -> int:
            return 1

    class Derived(Base):
        pass

    original = Base.__dict__["value"]
    with ExitStack() as undo:
        wrap(undo, Derived, "value", doubled)
        assert (Base().value(), Derived().value()) == (2, 2)
    assert Base.__dict__["value"] is original
    assert "value" not in vars(Derived)


def test_a_function_of_a_module_is_wrapped() -> None:
    module = ModuleType("module")
    module.value = lambda: 1  # type: ignore[attr-defined]
    with ExitStack() as undo:
        wrap(undo, module, "value", doubled)
        assert module.value() == 2
    assert module.value() == 1


def test_below_somebody_elses_wrapper_it_goes_quiet() -> None:
    class Base:
        def value(self) -> int:
            return 1

    undo = ExitStack()
    wrap(undo, Base, "value", doubled)
    theirs = wrapt.FunctionWrapper(Base.__dict__["value"], lambda method, _, args, kwargs: 10 * method())
    Base.value = theirs  # type: ignore[method-assign]
    assert Base().value() == 20
    undo.close()
    assert Base.__dict__["value"] is theirs
    assert Base().value() == 10


def test_what_somebody_else_has_set_since_stays() -> None:
    module = ModuleType("module")
    module.value = 1  # type: ignore[attr-defined]
    with ExitStack() as undo:
        replace(undo, module, "value", 2)
        assert module.value == 2
        module.value = 3  # type: ignore[attr-defined]
    assert module.value == 3


def test_classes_are_visited_now_and_when_they_are_defined() -> None:
    class Base:
        pass

    class Early(Base):
        pass

    class Below(Early):
        pass

    seen: list[type] = []
    with ExitStack() as undo:
        each_subclass(undo, Base, seen.append)

        class Late(Base):
            pass

    class Later(Base):
        pass

    assert seen == [Early, Below, Late]
    assert "__init_subclass__" not in vars(Base)
