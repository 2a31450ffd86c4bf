"""Loads what a recipe names: algorithms, graders, observers, stages, adapters, stores and resource kinds."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import cast

from agentlightning._recipe import Recipe
from agentlightning.agents import Adapter
from agentlightning.algorithm import Algorithm, AlgorithmFactory
from agentlightning.capture import install_tracing
from agentlightning.compose import (
    AlternateAlgorithm,
    How,
    Plan,
    SelectingAlgorithm,
    SequenceAlgorithm,
    TogetherAlgorithm,
)
from agentlightning.errors import ConfigError
from agentlightning.observer import Observer
from agentlightning.pipeline import Pipeline
from agentlightning.plugins import Plugins
from agentlightning.runner import Grader
from agentlightning.specs import AlgorithmSpec, GraderSpec, ObserverSpec, StoreSpec
from agentlightning.store import Store
from agentlightning.targets import load_target
from agentlightning.types import BUILTIN_KINDS, Resource


def build_algorithm(recipe: Recipe, plugins: Plugins) -> Algorithm:
    return _build(recipe.algorithm, plugins, learns=recipe.engine is not None)


def _build(plan: Plan, plugins: Plugins, *, learns: bool) -> Algorithm:
    built = _composed(plan, [_build(one, plugins, learns=learns) for one in plan.parts])
    built = built or _single(plan, plugins, learns=learns)
    if plan.agents or plan.resources:
        return SelectingAlgorithm(built, agents=plan.agents, resources=plan.resources)
    return built


def _composed(plan: Plan, parts: Sequence[Algorithm]) -> Algorithm | None:
    match plan.how:
        case How.SEQUENCE:
            return SequenceAlgorithm(parts)
        case How.ALTERNATE:
            steps, rounds = plan.params.get("steps", 1), plan.params.get("rounds")
            return AlternateAlgorithm(
                parts, steps=int(str(steps)), rounds=None if rounds is None else int(str(rounds))
            )
        case How.TOGETHER:
            return TogetherAlgorithm(parts)
        case None:
            return None


def _single(plan: Plan, plugins: Plugins, *, learns: bool) -> Algorithm:
    spec = plugins.find(AlgorithmSpec, plan.name)
    if spec.needs_learner and not learns:
        raise ConfigError(
            f"algorithm {plan.name!r} trains a model's weights, and no engine serves one here; "
            "add engine='torch' (--engine torch) with its model"
        )
    return cast("AlgorithmFactory", plugins.load(spec))(plan.params)


def build_grader(grader: Grader | str, plugins: Plugins) -> Grader:
    if not isinstance(grader, str):
        return grader
    return cast(
        "Grader", load_target(grader) if ":" in grader else plugins.load(plugins.find(GraderSpec, grader))
    )


def build_observer(observer: Observer | str, plugins: Plugins) -> Observer:
    if not isinstance(observer, str):
        return observer
    found = load_target(observer) if ":" in observer else plugins.load(plugins.find(ObserverSpec, observer))
    return cast("Observer", found() if isinstance(found, type) else found)


def build_pipeline(recipe: Recipe, plugins: Plugins, algorithm: str) -> Pipeline:
    specs = plugins.stages()
    standard = sorted(
        (spec.order, name) for name, spec in specs.items() if spec.default or name in recipe.stage_params
    )
    names = [name for _, name in standard] if recipe.stages is None else list(recipe.stages)
    for name in recipe.stage_params:
        if name not in names:
            raise ConfigError(
                f"stage {name!r} has parameters but is not in the pipeline; it has {', '.join(names)}"
            )
    pipeline = Pipeline.from_specs(
        specs,
        load=plugins.load,
        chosen=[(name, recipe.stage_params.get(name, {})) for name in names],
        agents=recipe.agents,
    )
    return plugins.configure_pipeline(pipeline, algorithm)


def store_schemes(plugins: Plugins) -> dict[str, Callable[[str], Store]]:
    """Store factories by URL scheme, each loaded when it is used."""

    def opener(spec: StoreSpec) -> Callable[[str], Store]:
        def opened(url: str) -> Store:
            return cast("Callable[[str], Store]", plugins.load(spec))(url)

        return opened

    return {name: opener(spec) for name, spec in plugins.stores().items()}


def instrument(plugins: Plugins, stack: AsyncExitStack) -> list[Adapter]:
    """Starts capture for every installed framework that an adapter exists for."""
    provider = install_tracing()
    adapters: list[Adapter] = []
    for spec in plugins.adapters().values():
        if spec.module and importlib.util.find_spec(spec.module) is None:
            continue
        adapter = cast("type[Adapter]", plugins.load(spec))()
        adapter.instrument(provider)
        stack.callback(adapter.uninstrument)
        adapters.append(adapter)
    return adapters


class ResourceLoader:
    """Loads pinned resource sets, each once: they are immutable."""

    def __init__(self, store: Store, plugins: Plugins) -> None:
        self._store = store
        self._kinds = BUILTIN_KINDS | {
            spec.name: cast("type[Resource]", plugins.load(spec)) for spec in plugins.resources().values()
        }
        self._loaded: dict[str, Mapping[str, Resource]] = {}

    async def __call__(self, set_id: str | None) -> Mapping[str, Resource]:
        if set_id is None:
            return {}
        if set_id not in self._loaded:
            found = await self._store.resources.get(set_id)
            self._loaded[set_id] = {
                name: record.load(self._kinds)
                for name, record in found.resources.items()
                if record.kind in self._kinds
            }
        return self._loaded[set_id]
