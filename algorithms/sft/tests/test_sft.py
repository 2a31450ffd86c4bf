from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.engine import Tokenized
from agentlightning.errors import ConfigError
from agentlightning.store import Store, open_store
from agentlightning.testing import InMemoryEngine, InMemoryLearner, InMemoryTrainingContext
from agentlightning.types import Json
from lightning_algorithm_sft import create
from lightning_algorithm_sft._forest import demonstration_forest
from lightning_algorithm_sft._loop import choose

TALK = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with open_store("memory://") as opened:
        yield opened


def context(store: Store, **changes: object) -> InMemoryTrainingContext:
    engine = InMemoryEngine()
    given = {"play": print, "store": store, "engine": engine, "learner": InMemoryLearner(engine=engine)}
    return InMemoryTrainingContext(**(given | changes))


def learner_of(made: InMemoryTrainingContext) -> InMemoryLearner:
    assert isinstance(made.learner, InMemoryLearner)
    return made.learner


def write(path: Path, *lines: object) -> str:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return str(path)


def talks(path: Path, count: int) -> str:
    return write(
        path,
        *({"messages": [TALK[0], {"role": "assistant", "content": str(number)}]} for number in range(count)),
    )


async def test_it_takes_the_steps_and_publishes_at_the_end(store: Store, tmp_path: Path) -> None:
    made = context(store)
    await create({"demonstrations": talks(tmp_path / "d", 6), "steps": 5, "batch_size": 4}).fit(made)
    assert learner_of(made).weight == made.updates == 5
    assert learner_of(made).engine.version == 1
    assert [step for step, _ in made.logged] == [0, 1, 2, 3, 4]
    assert {"loss", "grad_norm", "learning_rate", "num_tokens"} <= set(made.logged[0][1])
    assert [step for step, _ in made.checkpoints] == [5]


@pytest.mark.parametrize(("epochs", "steps"), [(None, 2), (1, 2), (2, 3), (4, 6)])
async def test_epochs_become_steps(store: Store, tmp_path: Path, epochs: int | None, steps: int) -> None:
    params: dict[str, Json] = {"demonstrations": talks(tmp_path / "d", 6), "batch_size": 4}
    made = context(store)
    await create(params | ({"epochs": epochs} if epochs else {})).fit(made)
    assert learner_of(made).weight == steps


async def test_only_what_the_assistant_said_is_trained(store: Store, tmp_path: Path) -> None:
    made = context(store)
    path = write(
        tmp_path / "d",
        {"messages": [*TALK, {"role": "user", "content": "ok"}, *TALK], "tools": [{"name": "x"}]},
    )
    await create({"demonstrations": path, "steps": 1, "batch_size": 1}).fit(made)
    ((forest, loss),) = learner_of(made).batches
    (tree,) = forest.trees
    trained = bytes(token for token, weight in zip(tree.token_ids, tree.weights, strict=True) if weight)
    assert trained == b"4\n4\n"
    assert bytes(list(tree.token_ids)).startswith(b'[{"name": "x"}]user:2+2?\nassistant:4\n')
    assert sum(tree.weights) == pytest.approx(1.0)
    assert (loss.name, loss.params) == ("cross_entropy", {})


async def test_a_resumed_run_does_what_an_uninterrupted_one_does(store: Store, tmp_path: Path) -> None:
    algorithm = create(
        {"demonstrations": talks(tmp_path / "d", 7), "steps": 6, "batch_size": 3, "checkpoint_every": 4}
    )
    whole = context(store, directory=tmp_path)
    await algorithm.fit(whole)
    step, state = whole.checkpoints[0]
    resumed = context(store, state=state)
    await learner_of(resumed).load_state(tmp_path / str(step))
    await algorithm.fit(resumed)
    assert resumed.logged == whole.logged[step:]
    assert learner_of(resumed).batches == learner_of(whole).batches[step:]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "has no lines"),
        ([{"messages": TALK}, "{broken"], r":2: not a demonstration"),
        ([{"message": TALK}], r":1: not a demonstration: .*messages"),
        ([{"messages": TALK}, "", {"messages": TALK[:1]}], r":3: no message has the role 'assistant'"),
    ],
)
async def test_bad_demonstrations_are_refused_by_line(
    store: Store, tmp_path: Path, lines: list[object], message: str
) -> None:
    algorithm = create({"demonstrations": write(tmp_path / "d", *lines), "steps": 1})
    with pytest.raises(ConfigError, match=message):
        await algorithm.fit(context(store))


async def test_a_missing_file_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read: No such file.*give the path of a JSONL file"):
        await create({"demonstrations": str(tmp_path / "nowhere")}).fit(context(store))


async def test_a_template_that_marks_nothing_is_refused(store: Store, tmp_path: Path) -> None:
    class Mute(InMemoryLearner):
        async def tokenize(self, messages: object, *, tools: object = ()) -> Tokenized:
            return Tokenized(token_ids=[1, 2], assistant_mask=[False, False])

    with pytest.raises(ConfigError, match=r"demonstration 1: .*marks no token"):
        await create({"demonstrations": talks(tmp_path / "d", 1)}).fit(
            context(store, learner=Mute(engine=InMemoryEngine()))
        )


async def test_a_run_without_a_learner_is_refused(store: Store) -> None:
    with pytest.raises(ConfigError, match="no engine that learns"):
        await create({"demonstrations": "x"}).fit(context(store, learner=None))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "demonstrations"),
        ({"demonstrations": "x", "step": 3}, "did you mean 'steps'"),
        ({"demonstrations": "x", "steps": 3, "epochs": 1}, "give only one of them"),
        ({"demonstrations": "x", "steps": 0}, "steps"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused(params: dict[str, Json], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create(params)


def test_the_learning_rate_warms_up() -> None:
    config = create({"demonstrations": "x", "warmup": 3, "learning_rate": 1.0}).config
    assert [config.optimizer(step, total=5).learning_rate for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_every_epoch_has_every_example_once() -> None:
    chosen = [index for step in range(10) for index in choose(10, count=3, step=step, seed=0)]
    assert all(Counter(chosen[start : start + 10]) == Counter(range(10)) for start in (0, 10, 20))


examples = st.lists(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=2, max_size=8).filter(
        lambda rows: any(mask for _, mask in rows[1:])
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(examples)
def test_the_forest_has_each_assistant_token_once_with_one_weight(rows: list[list[tuple[int, bool]]]) -> None:
    batch = [Tokenized(token_ids=[i for i, _ in row], assistant_mask=[m for _, m in row]) for row in rows]
    (tree,) = demonstration_forest(batch).trees
    trained = [node for node in range(len(tree)) if tree.weights[node]]
    expected = Counter(
        tuple(example.token_ids[: place + 1])
        for example in batch
        for place, mask in enumerate(example.assistant_mask)
        if mask and place
    )
    assert Counter(tuple(tree.path(node)) for node in trained) == expected
    assert sum(tree.weights) == pytest.approx(1.0, rel=1e-5)
