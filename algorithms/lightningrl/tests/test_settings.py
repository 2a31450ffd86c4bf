"""What is told of settings that cannot be used."""

from __future__ import annotations

import re

import pytest

from agentlightning.errors import ConfigError
from agentlightning.types import Json
from lightning_algorithm_lightningrl import create
from lightning_algorithm_lightningrl.decisions import create as create_decisions


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"los": "ppo_clip"}, "has no setting 'los'; did you mean 'loss'?"),
        ({"loss": "ppoclip"}, "reinforce, sapo; did you mean 'ppo_clip'?"),
        ({"loss": {"name": "gspoo"}}, "loss.name is one of cispo, "),
        (
            {"loss": {"name": "gspo", "clip_hi": 1}},
            "it has clip_high, clip_low, token, unit; did you mean 'clip_high'?",
        ),
        ({"loss": {"name": "reinforce", "clip_low": 1}}, "it has no options"),
        ({"advantage": "grppo"}, "did you mean 'grpo'?"),
        ({"advantage": {"name": "grpo"}}, "give its name alone: advantage = 'grpo'"),
        ({"advantage": {"name": "gae", "lambda": 0.9}}, "did you mean 'lam'?"),
        ({"kl": 0.1}, "kl is a table of coefficient, estimator, placement, corrected, cap"),
        ({"kl": {"estimator": "k4"}}, "kl.estimator is one of k1, k1+, k2, k3, k3+"),
        ({"correction": "tis"}, "correction is a list"),
        ({"correction": ["tis"]}, "correction[0] is a table, such as {name = 'tis'}"),
        (
            {"correction": [{"name": "tiss"}]},
            "correction[0].name is one of geometric, icepop, mis, opsm, tis",
        ),
        ({"selection": {"curriculum": {"lowst": 0.1}}}, "did you mean 'lowest'?"),
        ({"clip_low": 0.1}, "it belongs into loss = {name = 'ppo_clip', clip_low = …}"),
        ({"schedule": "cosin"}, "did you mean 'cosine'?"),
    ],
)
def test_the_nearest_name_is_told_wherever_the_mistake_is(params: dict[str, Json], told: str) -> None:
    with pytest.raises(ConfigError, match=f"^algorithm 'lightningrl'.*{re.escape(told)}"):
        create(params)


def test_what_is_no_name_has_no_hint() -> None:
    with pytest.raises(ConfigError, match=r"Expected `int` >= 1 - at `\$\.group_size`$"):
        create({"group_size": 0})
    with pytest.raises(ConfigError, match=r"one update makes 2 of them \(passes\).*Take at least 2, or 0$"):
        create({"max_staleness": 1, "passes": 2})


def test_settings_of_decisions_have_hints_too() -> None:
    with pytest.raises(ConfigError, match=r"baseline is one of .*; did you mean 'learned'\?"):
        create_decisions({"baseline": "learnt"})
