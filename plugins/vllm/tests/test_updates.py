"""New versions: adapters beside each other, whole weights in place or by a restart, and what happens if that fails."""

from __future__ import annotations

import asyncio
import json
from array import array
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from agentlightning.engine import LossInput, LossSpec, OptimizerConfig, ReferenceLearner, ValueLearner
from agentlightning.errors import ConfigError, EngineError, StoreUnavailable
from agentlightning.types import Call, TokenForest, TokenTree

LORA = {"learner": {"lora": {"rank": 2}}}
LOSS = LossSpec(name="likelihood", target="losses_of_vllm_tests:likelihood")
VALUES = LossSpec(name="values", target="losses_of_vllm_tests:values", inputs=(LossInput.VALUES,))


@pytest.fixture(autouse=True)
def losses(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    module = types.ModuleType("losses_of_vllm_tests")

    def likelihood(logprobs_T: Any, **columns: Any) -> Any:
        return -(columns["weights_T"] * logprobs_T).sum(), {}

    def values(logprobs_T: Any, *, values_T: Any, **columns: Any) -> Any:
        return ((values_T - 1) ** 2 - columns["weights_T"] * logprobs_T).sum(), {}

    module.likelihood, module.values = likelihood, values  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)


def forest() -> TokenForest:
    ids = [7, 8, 9, 20, 21]
    zeros = array("f", [0.0] * len(ids))
    tree = TokenTree(
        group="g",
        token_ids=array("i", ids),
        parents=array("i", range(-1, 4)),
        positions=array("i", range(5)),
        logprobs=zeros,
        versions=array("i", [0] * 5),
        advantages=zeros,
        weights=array("f", [0.0, 0.0, 0.0, 1.0, 1.0]),
        calls=(Call(transition_id="t", rollout_id="r", prompt_node=2, start=3, stop=5),),
    )
    return TokenForest(trees=(tree,))


async def step(backend: Any, loss: LossSpec = LOSS) -> None:
    await backend.learner.forward_backward(forest(), loss)
    await backend.learner.optim_step(OptimizerConfig(learning_rate=1e-2))


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def text(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


async def test_each_version_is_an_adapter_of_its_own(lab: Any, ask: Any) -> None:
    backend = await lab.start(**LORA, replicas=2)
    assert text(await backend.engine.chat(ask())).startswith("policy@v0|v0-")
    arguments = (await lab.state(backend))["arguments"]
    assert arguments[arguments.index("--max-lora-rank") + 1] == "8"
    for version in (1, 2):
        await step(backend)
        assert backend.engine.version == version - 1
        assert await backend.learner.publish() == backend.engine.version == version
        for _ in range(2):  # both servers
            answer = await backend.engine.chat(ask())
            assert text(answer).startswith(f"policy@v{version}|v{version}-")
            assert answer["policy_version"] == version
    for index in range(2):
        (name, directory), *others = (await lab.state(backend, index))["adapters"].items()
        assert (name, others) == ("policy@v2", [])
    assert json.loads((Path(directory) / "adapter_config.json").read_text())["r"] == 2
    assert names(Path(directory).parent) == {Path(directory).name}  # what is not served is deleted
    assert backend.engine.endpoints == ()  # who calls has to ask for the newest name


async def test_nothing_new_is_not_sent_again(lab: Any) -> None:
    backend = await lab.start(**LORA)
    await step(backend)
    assert [await backend.learner.publish() for _ in range(3)] == [1, 1, 1]
    assert lab.calls() == ["/v1/load_lora_adapter"]


async def test_an_answer_under_way_ends_with_the_adapter_that_it_began_with(lab: Any, ask: Any) -> None:
    backend = await lab.start(**LORA)
    await step(backend)
    await backend.learner.publish()
    holding = asyncio.create_task(backend.engine.chat(ask("hold")))
    await lab.until_running(backend)
    await step(backend)
    await backend.learner.publish()
    assert set((await lab.state(backend))["adapters"]) == {"policy@v1", "policy@v2"}
    assert (await backend.engine.chat(ask()))["policy_version"] == 2
    await lab.post(backend, "/_release")
    answer = await holding
    assert text(answer).startswith("policy@v1|v1-")
    assert answer["policy_version"] == 1
    assert "policy_versions" not in answer
    await step(backend)
    await backend.learner.publish()
    assert set((await lab.state(backend))["adapters"]) == {"policy@v3"}


async def test_an_adapter_that_a_server_does_not_take_changes_nothing(lab: Any, ask: Any) -> None:
    backend = await lab.start(fake={"bad_adapter": "policy@v2"}, **LORA, replicas=2)
    for _ in range(2):
        await step(backend)
        if backend.engine.version == 0:
            await backend.learner.publish()
    with pytest.raises(EngineError, match=r"refused adapter 'policy@v2'.*500.*bad rank"):
        await backend.learner.publish()
    assert backend.engine.version == 1
    assert (await backend.engine.chat(ask()))["policy_version"] == 1
    assert set((await lab.state(backend))["adapters"]) == {"policy@v1"}
    with pytest.raises(EngineError, match="bad rank"):
        await backend.learner.publish()  # it is tried again, not taken for done
    await step(backend)
    assert await backend.learner.publish() == 3


async def test_servers_without_adapters_say_how_to_start_them(lab: Any) -> None:
    own = await lab.start(serve_only=True, model="some/model")
    backend = lab.backend(**LORA, servers=[f"{url}/v2/v1" for url in lab.urls(own)])
    with pytest.raises(EngineError, match="no vLLM answers"):
        await backend.engine.start()


async def test_a_state_that_is_loaded_is_served_at_once(lab: Any, ask: Any, tmp_path: Path) -> None:
    backend = await lab.start(**LORA)
    await step(backend)
    await backend.learner.publish()
    (tmp_path / "state").mkdir()
    await backend.learner.save_state(tmp_path / "state")
    for _ in range(2):
        await step(backend)
    assert await backend.learner.publish() == 3
    await backend.learner.load_state(tmp_path / "state")
    assert backend.engine.version == 4  # 2 and 3 have named other weights, and 1 is the past
    assert text(await backend.engine.chat(ask())).startswith("policy@v4|v4-")
    assert lab.calls().count("/reset_prefix_cache") == 0  # no server knows the name
    resumed = await lab.start(**LORA)
    await resumed.learner.load_state(tmp_path / "state")
    assert (await resumed.engine.chat(ask()))["policy_version"] == 1


async def test_whole_weights_are_replaced_in_place_while_servers_pause(lab: Any, ask: Any) -> None:
    backend = await lab.start(replicas=1)
    assert text(await backend.engine.chat(ask())).startswith("policy|v0-")
    for version in (1, 2):
        await step(backend)
        assert await backend.learner.publish() == version
        answer = await backend.engine.chat(ask())
        assert text(answer).startswith(f"policy|v{version}-")
        assert answer["policy_version"] == version
    assert lab.calls() == ["/pause", "/collective_rpc", "/reset_prefix_cache", "/resume"] * 2
    weights = Path((await lab.state(backend))["weights"])
    assert names(weights) >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert names(weights.parent) == {weights.name}  # what no server has any more is deleted
    assert backend.engine.endpoints == tuple(f"{url}/v1" for url in lab.urls(backend))


async def test_waiting_lets_answers_end_before_weights_change(lab: Any, ask: Any) -> None:
    backend = await lab.start()
    holding = asyncio.create_task(backend.engine.chat(ask("hold")))
    await lab.until_running(backend)
    await step(backend)
    publishing = asyncio.create_task(backend.learner.publish())

    async def paused() -> bool:
        return "/pause" in lab.calls()

    await lab.until(paused)
    assert "/collective_rpc" not in lab.calls()
    await lab.post(backend, "/_release")
    assert await publishing == 1
    answer = await holding
    assert text(answer).startswith("policy|v0-")
    assert answer["policy_version"] == 0


async def test_aborting_cuts_answers_off(lab: Any, ask: Any) -> None:
    backend = await lab.start(pause="abort")
    holding = asyncio.create_task(backend.engine.chat(ask("hold")))
    await lab.until_running(backend)
    await step(backend)
    assert await backend.learner.publish() == 1
    assert (await holding)["choices"][0]["finish_reason"] == "abort"


async def test_keeping_tells_all_versions_of_an_answer(lab: Any, ask: Any) -> None:
    backend = await lab.start(pause="keep")
    holding = asyncio.create_task(backend.engine.chat(ask("hold")))
    await lab.until_running(backend)
    await step(backend)
    assert await backend.learner.publish() == 1
    await lab.post(backend, "/_release")
    answer = await holding
    assert (answer["policy_version"], answer["policy_versions"]) == (0, [0, 1])


@pytest.mark.parametrize("good", [0, 1])
async def test_weights_that_fail_at_one_server_are_put_back_at_all(lab: Any, ask: Any, good: int) -> None:
    backend = await lab.start(fake={"breaks_on": f"v{good + 1}-"}, replicas=2)
    for _ in range(good):
        await step(backend)
        await backend.learner.publish()
    await step(backend)
    with pytest.raises(EngineError, match=r"refused weights .*500.*out of memory"):
        await backend.learner.publish()
    assert backend.engine.version == good
    for index in range(2):
        state = await lab.state(backend, index)
        assert Path(state["weights"]).name.startswith(f"v{good}-")
        assert "config.json" in names(Path(state["weights"]))
    assert lab.calls()[-2:] == ["/resume", "/resume"]
    assert (await backend.engine.chat(ask()))["policy_version"] == good


async def test_servers_that_cannot_change_in_place_are_restarted(lab: Any, ask: Any) -> None:
    backend = await lab.start(fake={"refuses": True}, replicas=1)
    for version in (1, 2):
        await step(backend)
        assert await backend.learner.publish() == version
        answer = await backend.engine.chat(ask())
        assert text(answer).startswith(f"policy|v{version}-")
        assert answer["policy_version"] == version
    assert lab.calls() == ["/pause", "/collective_rpc", "/resume"]  # the second time it is not even tried


async def test_a_restart_can_be_asked_for(lab: Any, ask: Any) -> None:
    backend = await lab.start(update="restart")
    await step(backend)
    assert await backend.learner.publish() == 1
    assert text(await backend.engine.chat(ask())).startswith("policy|v1-")
    assert lab.calls() == []


async def test_a_joined_server_that_cannot_change_in_place_is_an_error(lab: Any) -> None:
    own = await lab.start(fake={"refuses": True}, serve_only=True, model="some/model")
    backend = await lab.start(servers=own.engine.endpoints)
    await step(backend)
    with pytest.raises(EngineError, match=r"cannot replace weights in place.*FP8.*started elsewhere"):
        await backend.learner.publish()
    assert backend.engine.version == 0


async def test_servers_that_compute_something_else_are_found_out(lab: Any) -> None:
    backend = lab.backend(tolerance=0.01)
    with pytest.raises(EngineError, match=r"version 0, but its log-probabilities differ .* more than 0\.01"):
        await backend.engine.start()


async def test_adapters_of_a_full_disk_are_not_half_there(
    lab: Any, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = await lab.start(**LORA)
    await step(backend)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("lightning_plugin_torch._lora.save_file", full)
        with pytest.raises(StoreUnavailable, match="No space left"):
            await backend.learner.publish()
    assert names(lab.directory / "run-0" / "adapters") == set()
    assert (await backend.engine.chat(ask()))["policy_version"] == 0
    assert await backend.learner.publish() == 1


def test_a_rank_that_no_server_takes_is_refused(lab: Any) -> None:
    with pytest.raises(ConfigError, match="rank is 600"):
        lab.backend(learner={"lora": {"rank": 600}})


@pytest.mark.parametrize(("attached", "lora"), [(True, None), (False, {"rank": 2})])
async def test_a_value_head_is_trained_and_saved_here_and_never_reaches_a_server(
    lab: Any, tmp_path: Path, attached: bool, lora: dict[str, object] | None
) -> None:
    learner = {"value_head": {"attached": attached}, "lora": lora}
    backend, plain = await lab.start(learner=learner), await lab.start(learner={"lora": lora})
    assert isinstance(backend.learner, ValueLearner)
    assert await backend.learner.values(forest()) == [[0.0] * 5]
    for _ in range(2):
        await step(backend, VALUES)
        await step(plain)
        await asyncio.gather(backend.learner.publish(), plain.learner.publish())
    given, expected = [await served(lab, one, lora=lora) for one in (backend, plain)]
    await backend.learner.save_model(tmp_path / "model")
    await plain.learner.save_model(tmp_path / "plain")
    for one, other in ((given, expected), (tmp_path / "model", tmp_path / "plain")):
        assert names(one) == names(other)
        for file in (name for name in names(one) if name.endswith(".safetensors")):
            assert load_file(one / file).keys() == load_file(other / file).keys()
    values = await backend.learner.values(forest())
    assert values[0][:3] == [0.0] * 3
    assert all(values[0][3:])
    (tmp_path / "state").mkdir()
    await backend.learner.save_state(tmp_path / "state")
    await step(backend, VALUES)
    assert await backend.learner.values(forest()) != values
    resumed = await lab.start(learner=learner)
    for one in (backend, resumed):
        await one.learner.load_state(tmp_path / "state")
        assert await one.learner.values(forest()) == values
    for one in (backend, resumed):
        await step(one, VALUES)
    assert await resumed.learner.values(forest()) == await backend.learner.values(forest())


async def served(lab: Any, backend: Any, *, lora: object) -> Path:
    """What a server was given."""
    state = await lab.state(backend)
    return Path(next(iter(state["adapters"].values())) if lora else state["weights"])


def test_the_learner_does_what_its_options_say(lab: Any) -> None:
    def kinds(**learner: object) -> tuple[bool, bool]:
        made = lab.backend(learner=learner).learner
        return isinstance(made, ReferenceLearner), isinstance(made, ValueLearner)

    assert kinds() == (False, False)
    assert kinds(value_head={}) == (False, True)
    assert kinds(reference=True) == kinds(lora={"rank": 2}) == (True, False)
    assert kinds(value_head={}, lora={"rank": 2}) == (True, True)


async def test_the_weights_that_a_run_began_with_stay_known(lab: Any) -> None:
    backend = await lab.start(**LORA)
    assert isinstance(backend.learner, ReferenceLearner)
    before = await backend.learner.logprobs(forest())
    await step(backend)
    await backend.learner.publish()
    assert await backend.learner.reference_logprobs(forest()) == before
    assert await backend.learner.logprobs(forest()) != before
