"""What is sampled together, after earlier prompts and across updates, against what is sampled alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lightning_plugin_torch._answer import Answer, SamplingParams
from lightning_plugin_torch._build import build
from lightning_plugin_torch._forward import Forward
from lightning_plugin_torch._model import LoadedModel, load
from lightning_plugin_torch._options import BuildOptions, TorchOptions
from lightning_plugin_torch._sampler import Sampler
from lightning_plugin_torch._sizes import Grain, safe_sizes

GRAIN = Grain(block=8, width=4, rows=4)


class Weights:
    """A model with two sets of weights."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self.sizes = safe_sizes(Forward(model), largest=8)
        self._head = model.module.get_output_embeddings().weight
        self._sets = (self._head.detach().clone(), self._head.detach().roll(1, 0))

    def use(self, version: int) -> None:
        with torch.no_grad():
            self._head.copy_(self._sets[version % 2])

    def sampler(self, *, cache_bytes: int = 2**20, max_active: int = 8, recompute: bool = False) -> Sampler:
        return Sampler(
            self.model,
            sizes=self.sizes,
            max_active=max_active,
            grain=GRAIN,
            cache_bytes=cache_bytes,
            recompute=recompute,
        )


@pytest.fixture(scope="module", params=["llama", "qwen3", "gpt2"])
def weights(
    request: pytest.FixtureRequest, build_options: dict, tmp_path_factory: pytest.TempPathFactory
) -> Weights:
    directory = tmp_path_factory.mktemp(request.param)
    build(BuildOptions(**build_options, style=request.param), seed=2, directory=directory)
    torch.set_num_threads(1)
    model = load(directory, TorchOptions(model=str(directory)))
    return Weights(model)


def answer(
    prompt: Sequence[int], *, seed: int = 1, most: int = 12, request: str = "", top: int = 2
) -> Answer:
    params = SamplingParams(
        temperature=1.0, top_p=1.0, max_tokens=most, seed=seed, choice=0, top_logprobs=top
    )
    return Answer(prompt=list(prompt), params=params, end_ids=frozenset(), request=request)


def finish(sampler: Sampler) -> None:
    while sampler.step():
        pass


def alone(weights: Weights, like: Answer) -> list:
    """The tokens of the same answer from a sampler that never did anything else."""
    sampler = weights.sampler(cache_bytes=0)
    same = Answer(prompt=like.prompt, params=like.params, end_ids=frozenset())
    sampler.add(same)
    finish(sampler)
    return same.tokens


tokens = st.integers(min_value=7, max_value=8)  # few tokens, so that prefixes are shared often
prompts = st.lists(tokens, min_size=1, max_size=30)
asking = st.tuples(st.just("ask"), prompts, st.integers(1, 12))
following = st.tuples(st.just("follow"), st.integers(0, 9), st.integers(1, 8))
cancelling = st.tuples(st.just("cancel"), st.integers(0, 9), st.just(0))
stepping = st.tuples(st.just("step"), st.integers(1, 12), st.just(0))
updating = st.tuples(st.just("update"), st.just(0), st.just(0))
STALE_BLOCKS = [("ask", [7] * 20, 2), ("step", 9, 0), ("update", 0, 0), ("ask", [7] * 21, 3)]
HALF_A_PROMPT = [("ask", [7, 8] * 35, 3), ("step", 1, 0), ("update", 0, 0)]
stories = st.lists(st.one_of(asking, following, stepping, cancelling, updating), min_size=4, max_size=12)


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    story=stories,
    cache_bytes=st.sampled_from([0, 40_000, 2**24]),
    max_active=st.integers(1, 9),
    recompute=st.booleans(),
)
@example(story=STALE_BLOCKS, cache_bytes=2**24, max_active=4, recompute=False)
@example(story=HALF_A_PROMPT, cache_bytes=2**24, max_active=4, recompute=False)
def test_an_answer_is_the_same_whatever_was_and_is_sampled(
    weights: Weights, story: list[tuple], cache_bytes: int, max_active: int, recompute: bool
) -> None:
    sampler = weights.sampler(cache_bytes=cache_bytes, max_active=max_active, recompute=recompute)
    weights.use(0)
    asked: list[Answer] = []
    for what, which, many in story:
        known = asked[which % len(asked)] if asked and isinstance(which, int) else None
        if what == "ask":
            asked.append(answer(which, seed=len(asked), most=many, request=str(len(which) % 3)))
            sampler.add(asked[-1])
        elif what == "follow" and known:  # the next turn of a conversation
            asked.append(answer([*known.ids, 9, 10][:70], seed=len(asked), most=many))
            sampler.add(asked[-1])
        elif what == "cancel" and known:
            known.done.cancel()
        elif what == "step":
            for _ in range(which):
                sampler.step()
        elif what == "update":
            sampler.version += 1
            weights.use(sampler.version)
            sampler.weights_changed()
    finish(sampler)
    counts = sampler.counts()
    assert counts.active == counts.waiting == 0
    assert counts.cached_bytes <= cache_bytes
    for one in asked:
        assert sum(count for _, count in one.runs) == len(one.tokens)
        if one.done.cancelled() or len(one.runs) > 1:
            continue
        assert len(one.tokens) == one.params.max_tokens
        weights.use(one.runs[0][0])
        assert one.tokens == alone(weights, one)
    weights.use(0)


def test_a_group_computes_its_prompt_once(weights: Weights) -> None:
    sampler = weights.sampler()
    group = [answer(range(20), seed=seed) for seed in range(6)]
    for one in group:
        sampler.add(one)
    finish(sampler)
    assert sampler.counts().computed_prompt_tokens == 20
    sampler.add(answer(range(20), seed=7))
    finish(sampler)
    assert (sampler.counts().computed_prompt_tokens, sampler.counts().reused_prompt_tokens) == (20, 20)
    assert len({tuple(token.id for token in one.tokens) for one in group}) == 6


def test_prompts_that_begin_alike_compute_that_once(weights: Weights) -> None:
    sampler = weights.sampler()
    for last in (50, 51):
        sampler.add(answer([*range(16), last]))
    finish(sampler)
    assert sampler.counts().computed_prompt_tokens == 16 + 1 + 1


def test_the_next_turn_computes_only_what_follows_the_last_whole_block(weights: Weights) -> None:
    sampler = weights.sampler()
    first = answer(range(30), most=10)
    sampler.add(first)
    finish(sampler)
    before = sampler.counts().computed_prompt_tokens
    second = answer([*first.ids, 9, 10])
    sampler.add(second)
    finish(sampler)
    assert sampler.counts().computed_prompt_tokens - before == len(second.prompt) - 24
    assert second.tokens == alone(weights, second)


def test_old_prompts_make_room(weights: Weights) -> None:
    sampler = weights.sampler(cache_bytes=30_000)
    for start in range(40):
        sampler.add(answer(range(start, start + 30), most=1))
    finish(sampler)
    counts = sampler.counts()
    assert 0 < counts.cached_bytes <= 30_000
    assert counts.evicted_blocks > 0


def test_other_weights_forget_prompts(weights: Weights) -> None:
    sampler = weights.sampler()
    sampler.add(answer(range(30)))
    finish(sampler)
    sampler.weights_changed()
    assert sampler.counts().cached_blocks == 0


def test_answers_go_on_while_a_long_prompt_is_computed(weights: Weights) -> None:
    sampler = weights.sampler()
    short = answer([7, 8], most=30)
    sampler.add(short)
    sampler.step()
    long = answer([token % 300 for token in range(150)], most=1)
    sampler.add(long)
    steps = 0
    while not long.tokens:
        before = len(short.tokens)
        sampler.step()
        assert len(short.tokens) == before + 1
        steps += 1
    assert steps >= 150 // (GRAIN.block * GRAIN.rows)


def test_a_cancelled_answer_frees_its_place_at_the_next_token(weights: Weights) -> None:
    sampler = weights.sampler(max_active=1)
    first, second = answer([7, 8], most=50), answer([7, 9], most=50)
    for one in (first, second):
        sampler.add(one)
    sampler.step()
    first.done.cancel()
    sampler.step()
    sampler.step()
    assert second.tokens


def test_requests_take_turns(weights: Weights) -> None:
    sampler = weights.sampler(max_active=2)
    many = [answer([7, 8], seed=seed, most=3, request="many") for seed in range(20)]
    one = answer([7, 9], most=3, request="one")
    for each in (*many, one):
        sampler.add(each)
    while not one.finished:
        sampler.step()
    assert sum(bool(each.finished) for each in many) <= 2


@pytest.mark.parametrize("recompute", [False, True])
def test_an_update_splits_an_answer_in_runs(weights: Weights, recompute: bool) -> None:
    sampler = weights.sampler(recompute=recompute)
    weights.use(0)
    one = answer([7, 8, 9], most=12)
    sampler.add(one)
    for _ in range(5):
        sampler.step()
    sampled = len(one.tokens)
    sampler.version = 1
    weights.use(1)
    sampler.weights_changed()
    finish(sampler)
    weights.use(0)
    assert one.runs == [(0, sampled), (1, 12 - sampled)]
