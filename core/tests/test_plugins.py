from __future__ import annotations

import logging
import types
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from agentlightning.errors import ConfigError, MissingExtra, PluginConflict, PluginError, PluginNotFound
from agentlightning.pipeline import Pipeline
from agentlightning.plugins import Plugins, PluginState, hookimpl, load_plugins
from agentlightning.specs import AlgorithmSpec, CommandSpec, EngineSpec, GraderSpec, StoreSpec
from agentlightning.types import Experience

if TYPE_CHECKING:
    from core.tests.conftest import Site

Source = Callable[..., str]
IMPORTS = "from agentlightning.plugins import hookimpl\nfrom agentlightning.specs import *\n"


def load(site: Site, **environ: str) -> Plugins:
    return load_plugins(entry_points=site.entry_points(), environ=environ)


def state_of(plugins: Plugins, name: str) -> tuple[PluginState, str]:
    return next((one.status, one.reason) for one in plugins.status() if one.name == name)


def module(**functions: object) -> types.ModuleType:
    made = types.ModuleType("made")
    for name, function in functions.items():
        setattr(made, name, hookimpl(function))
    return made


class Named:
    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, experience: Experience) -> Experience:
        return experience


def test_a_plugin_is_discovered_with_its_distribution_and_what_it_provides(
    site: Site, algorithm_plugin: Source
) -> None:
    site.install("mine", algorithm_plugin(), distribution="my-dist", version="3.4")
    (status,) = load(site).status()
    assert (status.name, status.distribution, status.version) == ("mine", "my-dist", "3.4")
    assert status.status is PluginState.LOADED
    assert status.hooks == ("agl_register_algorithms",)
    assert status.provides == ("algorithm mine",)
    assert status.seconds > 0


def test_a_registered_name_is_found_and_loaded(site: Site, algorithm_plugin: Source) -> None:
    import json

    site.install("mine", algorithm_plugin())
    plugins = load(site)
    spec = plugins.find(AlgorithmSpec, "mine")
    assert plugins.algorithms() == {"mine": spec}
    assert plugins.load(spec) is json.loads


def test_the_core_plugin_brings_the_built_in_parts() -> None:
    plugins = load_plugins(names=[])
    assert [status.name for status in plugins.status() if status.status is PluginState.LOADED] == ["core"]
    assert {"memory", "sqlite"} <= set(plugins.stores())
    assert {"join", "forest"} <= set(plugins.stages())
    assert {"prompt", "model", "weights", "decision_policy"} == set(plugins.resources())
    assert "exact_match" in plugins.graders()
    assert "progress" in plugins.observers()
    assert "in-process" in plugins.launchers()
    assert {"train", "doctor"} <= set(plugins.commands())


@pytest.mark.parametrize(
    "kind", ["stores", "stages", "resources", "graders", "observers", "launchers", "commands"]
)
def test_every_built_in_target_loads(kind: str) -> None:
    plugins = load_plugins(names=[])
    for spec in getattr(plugins, kind)().values():
        assert plugins.load(spec) is not None


def test_only_the_plugins_of_the_exact_list_are_imported(site: Site, algorithm_plugin: Source) -> None:
    site.install("one", algorithm_plugin("one"))
    site.install("two", "raise SystemExit('imported')")
    plugins = load(site, AGL_PLUGINS="one")
    assert list(plugins.algorithms()) == ["one"]
    assert state_of(plugins, "two") == (PluginState.DISABLED, "not among AGL_PLUGINS")


def test_a_denied_plugin_is_never_imported_even_if_it_is_listed(site: Site, algorithm_plugin: Source) -> None:
    site.install("one", algorithm_plugin("one"))
    site.install("two", "raise SystemExit('imported')")
    plugins = load(site, AGL_PLUGINS="one,two", AGL_DISABLE=" two ")
    assert state_of(plugins, "two") == (PluginState.DISABLED, "disabled by AGL_DISABLE")


def test_core_cannot_be_denied() -> None:
    with pytest.raises(ConfigError, match="'core' cannot be disabled"):
        load_plugins(environ={"AGL_DISABLE": "core"})


def test_a_listed_plugin_that_is_not_installed_is_an_error_with_the_nearest_name(
    site: Site, algorithm_plugin: Source
) -> None:
    site.install("mine", algorithm_plugin())
    with pytest.raises(PluginNotFound, match="'mien'; did you mean 'mine'"):
        load(site, AGL_PLUGINS="mien")


def test_a_denied_plugin_that_is_not_installed_is_a_warning(
    site: Site, algorithm_plugin: Source, caplog: pytest.LogCaptureFixture
) -> None:
    site.install("mine", algorithm_plugin())
    load(site, AGL_DISABLE="mien")
    assert "did you mean 'mine'" in caplog.text


BROKEN = {
    "raises": "1 / 0",
    "exits": "import sys; sys.exit(3)",
    "lacks a module": "import not_there_at_all",
    "has a syntax error": "def (",
    "has a hook that raises": f"{IMPORTS}@hookimpl\ndef agl_register_graders(): raise RuntimeError('no')",
    "has an unknown hook": f"{IMPORTS}@hookimpl\ndef agl_register_grader(): return []",
    "forgets to mark a hook": f"{IMPORTS}def agl_register_graders(): return []",
    "takes a wrong parameter": f"{IMPORTS}@hookimpl\ndef agl_register_graders(nonsense): return []",
    "hands over no specs": f"{IMPORTS}@hookimpl\ndef agl_register_graders(): return ['x']",
    "hands over no sequence": f"{IMPORTS}@hookimpl\ndef agl_register_graders(): return 3",
    "hands over another kind": (
        f"{IMPORTS}@hookimpl\ndef agl_register_graders(): return [StageSpec(name='x', target='x:y')]"
    ),
    "registers a name twice": (
        f"{IMPORTS}@hookimpl\ndef agl_register_graders(): return [GraderSpec(name='x', target='x:y')] * 2"
    ),
}


@pytest.mark.parametrize("source", BROKEN.values(), ids=list(BROKEN))
def test_a_broken_plugin_that_is_merely_installed_is_skipped_with_one_warning(
    site: Site, algorithm_plugin: Source, source: str, caplog: pytest.LogCaptureFixture
) -> None:
    site.install("bad", source)
    site.install("good", algorithm_plugin("good"))
    with caplog.at_level(logging.WARNING):
        plugins = load(site)
    state, reason = state_of(plugins, "bad")
    assert state is PluginState.FAILED
    assert reason
    assert list(plugins.algorithms()) == ["good"]
    assert plugins.graders() == {}
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "dist-bad" in caplog.text


@pytest.mark.parametrize("source", BROKEN.values(), ids=list(BROKEN))
def test_a_broken_plugin_that_is_named_is_an_error(site: Site, source: str) -> None:
    site.install("bad", source)
    with pytest.raises(PluginError, match=r"plugin 'bad' from 'dist-bad' 1\.2 cannot be loaded"):
        load(site, AGL_PLUGINS="bad")


def test_nothing_of_a_plugin_stays_when_one_of_its_hooks_fails(site: Site) -> None:
    source = (
        f"{IMPORTS}@hookimpl\ndef agl_register_graders(): return [GraderSpec(name='x', target='x:y')]\n"
        "@hookimpl\ndef agl_register_stores(): raise RuntimeError('no')\n"
        "@hookimpl\ndef agl_configure_pipeline(pipeline, algorithm): raise RuntimeError('called')\n"
    )
    site.install("half", source)
    plugins = load(site)
    assert plugins.graders() == {}
    assert plugins.configure_pipeline(Pipeline(), "a") == Pipeline()


def test_two_plugins_with_one_name_are_an_error_that_names_both(site: Site, algorithm_plugin: Source) -> None:
    site.install("mine", algorithm_plugin("a"), distribution="first")
    site.install("mine", algorithm_plugin("b"), distribution="second")
    with pytest.raises(PluginConflict, match=r"'mine': one from '(first|second)', one from '(first|second)'"):
        load(site)
    assert load(site, AGL_DISABLE="mine").algorithms() == {}


def test_two_specs_of_one_kind_with_one_name_are_an_error_that_names_both(
    site: Site, algorithm_plugin: Source
) -> None:
    site.install("one", algorithm_plugin("same"), distribution="first")
    site.install("two", algorithm_plugin("same"), distribution="second")
    with pytest.raises(PluginConflict, match="algorithm 'same': 'one' from 'first' and 'two' from 'second'"):
        load(site)


def test_specs_of_different_kinds_may_share_a_name(site: Site, algorithm_plugin: Source) -> None:
    site.install("one", algorithm_plugin("same"))
    grader = f"{IMPORTS}@hookimpl\ndef agl_register_graders(): return [GraderSpec(name='same', target='x:y')]"
    site.install("two", grader)
    plugins = load(site)
    assert list(plugins.algorithms()) == list(plugins.graders()) == ["same"]


def test_a_mistyped_name_is_answered_with_the_nearest(site: Site, algorithm_plugin: Source) -> None:
    site.install("mine", algorithm_plugin("evolution"))
    with pytest.raises(PluginNotFound, match="the algorithm 'evoluton'; did you mean 'evolution'"):
        load(site).find(AlgorithmSpec, "evoluton")


@pytest.mark.parametrize(
    ("kind", "name", "distribution"),
    [
        (AlgorithmSpec, "lightningrl", "lightning-algorithm-lightningrl"),
        (EngineSpec, "torch", "lightning-plugin-torch"),
        (StoreSpec, "postgresql", "lightning-plugin-postgres"),
        (CommandSpec, "serve", "lightning-plugin-server"),
    ],
)
def test_a_name_of_ours_that_is_not_installed_is_answered_with_the_command(
    kind: type[AlgorithmSpec], name: str, distribution: str
) -> None:
    with pytest.raises(PluginNotFound, match=f"pip install {distribution}"):
        load_plugins(entry_points=[], environ={}).find(kind, name)


def test_a_name_whose_plugin_was_skipped_is_answered_with_the_reason(site: Site) -> None:
    site.install("mine", "1 / 0")
    with pytest.raises(PluginNotFound, match="installed but failed: ZeroDivisionError"):
        load(site).find(AlgorithmSpec, "mine")


def test_a_missing_requirement_is_answered_with_the_command(site: Site, algorithm_plugin: Source) -> None:
    extra = ", requires=('not-there-at-all>=2',), extra='mine[all]'"
    site.install("mine", algorithm_plugin(extra=extra))
    plugins = load(site)
    with pytest.raises(
        MissingExtra, match=r"not-there-at-all>=2 \(not installed\); run: pip install mine\[all\]"
    ):
        plugins.load(plugins.algorithms()["mine"])


@pytest.mark.parametrize(
    ("requirement", "met"),
    [
        ("click", True),
        ("click>=8,<99", True),
        ("click>=99", False),
        ("click<8", False),
        ("click!=1.0", True),
        ("click~=8.0", True),
        ("click~=7.0", False),
        ("click==8.*", True),
        ("click!=8.*", False),
        ("click[extra]>=8 ; python_version > '3'", True),
        ("click (>=8)", True),
    ],
)
def test_versions_of_requirements_are_compared(requirement: str, met: bool) -> None:
    plugins = Plugins_of(GraderSpec(name="x", target="json:loads", requires=(requirement,)))
    if met:
        assert callable(plugins.load(plugins.graders()["x"]))
    else:
        with pytest.raises(MissingExtra, match="found 8"):
            plugins.load(plugins.graders()["x"])


def Plugins_of(*specs: GraderSpec) -> Plugins:  # noqa: N802
    plugins = load_plugins(entry_points=[], environ={})
    plugins.register(module(agl_register_graders=lambda: specs), "made")
    return plugins


@pytest.mark.parametrize("target", ["json", "json:not_there", "not_there_at_all:x", "json:loads.nothing"])
def test_a_target_that_leads_nowhere_names_spec_plugin_and_target(target: str) -> None:
    plugins = Plugins_of(GraderSpec(name="x", target=target))
    with pytest.raises(PluginError, match=f"grader 'x' of plugin 'made' cannot be loaded from '{target}'"):
        plugins.load(plugins.graders()["x"])


def test_a_requirement_that_cannot_be_read_is_the_plugins_error() -> None:
    plugins = Plugins_of(GraderSpec(name="x", target="json:loads", requires=("click>>3",)))
    with pytest.raises(PluginError, match="grader 'x' of plugin 'made'"):
        plugins.load(plugins.graders()["x"])


def test_registering_by_hand_raises_whatever_is_wrong() -> None:
    plugins = Plugins_of()
    with pytest.raises(PluginConflict, match="'made' is registered already"):
        plugins.register(module(), "made")
    with pytest.raises(PluginError, match="did you mean 'agl_register_graders'"):
        plugins.register(module(agl_register_grader=lambda: [3]), "other")


def test_plugins_configure_the_pipeline_in_order_of_registration() -> None:
    plugins = load_plugins(entry_points=[], environ={})

    def adding(name: str) -> Callable[[Pipeline, str], Pipeline]:
        def agl_configure_pipeline(pipeline: Pipeline, algorithm: str) -> Pipeline:
            return Pipeline((*pipeline.stages, Named(f"{name}-{algorithm}")))

        return agl_configure_pipeline

    plugins.register(module(agl_configure_pipeline=adding("first")), "z")
    plugins.register(module(agl_configure_pipeline=lambda pipeline: None), "m")
    plugins.register(module(agl_configure_pipeline=adding("second")), "a")
    assert plugins.configure_pipeline(Pipeline(), "apo").names == ("first-apo", "second-apo")


CONFIGURE = f"{IMPORTS}@hookimpl\ndef agl_configure_pipeline(pipeline, algorithm): "


@pytest.mark.parametrize("body", ["raise RuntimeError('no')", "return 3"])
def test_a_plugin_that_fails_to_configure_is_skipped_unless_it_is_named(
    site: Site, body: str, caplog: pytest.LogCaptureFixture
) -> None:
    site.install("bad", CONFIGURE + body)
    assert load(site).configure_pipeline(Pipeline(), "apo") == Pipeline()
    assert "plugin 'bad' failed in agl_configure_pipeline" in caplog.text
    with pytest.raises(PluginError, match="plugin 'bad' failed"):
        load(site, AGL_PLUGINS="bad").configure_pipeline(Pipeline(), "apo")


def test_hook_calls_are_traced_on_request(
    site: Site, algorithm_plugin: Source, capsys: pytest.CaptureFixture[str]
) -> None:
    site.install("mine", algorithm_plugin())
    load(site, AGL_TRACE_PLUGINS="0")
    assert capsys.readouterr().err == ""
    load(site, AGL_TRACE_PLUGINS="1")
    assert "agl_register_algorithms" in capsys.readouterr().err
