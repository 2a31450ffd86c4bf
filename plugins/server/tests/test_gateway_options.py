"""What `agl serve` is told of models: `--upstream`, `--gateway` with a file, `--gateway-set`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentlightning._upstreams import parse_upstream
from agentlightning.config import load_config
from agentlightning.errors import ConfigError
from agentlightning.gateway import HttpUpstream, Price
from lightning_plugin_server._gateway import gateway_options

URLS = st.sampled_from(
    ["http://a:8000/v1", "https://b.example/v1", "http+unix://%2Frun%2Fm/v1", "http://[::1]:1/v1"]
)
NAMES = st.from_regex(r"[A-Za-z0-9/._:-]{1,20}", fullmatch=True)
PRICES = st.floats(0, 1000).map(lambda price: round(price, 4))
UPSTREAMS = st.builds(
    HttpUpstream,
    base_url=URLS,
    replicas=st.lists(URLS, max_size=3).map(tuple),
    api_key_env=st.from_regex(r"[A-Z_][A-Z0-9_]{0,20}", fullmatch=True) | st.just(""),
    model=NAMES | st.just(""),
    token_ids=st.booleans(),
    wires=st.lists(
        st.sampled_from(["chat", "completions", "responses", "messages", "embeddings"]),
        min_size=1,
        unique=True,
    ).map(tuple),
    price=st.none() | st.builds(Price, prompt=PRICES, response=PRICES),
    max_concurrency=st.integers(0, 10_000),
)


def written(model: str, upstream: HttpUpstream) -> str:
    """The text of an upstream, as a person writes it."""
    parts = [f"{model}={upstream.base_url}", *upstream.replicas]
    parts += [f"{name}={getattr(upstream, name)}" for name in ("api_key_env", "model", "max_concurrency")]
    parts += [f"token_ids={str(upstream.token_ids).lower()}", f"wires={'+'.join(upstream.wires)}"]
    if upstream.price:
        parts += [f"price.prompt={upstream.price.prompt}", f"price.response={upstream.price.response}"]
    return ",".join(parts)


@given(model=NAMES | st.just("*"), upstream=UPSTREAMS)
def test_whatever_an_upstream_needs_can_be_said_in_one_flag(model: str, upstream: HttpUpstream) -> None:
    assert parse_upstream(written(model, upstream)) == (model, upstream)


def test_a_url_alone_is_enough() -> None:
    assert parse_upstream("*=http://127.0.0.1:8000/v1") == (
        "*",
        HttpUpstream(base_url="http://127.0.0.1:8000/v1"),
    )


@given(st.text())
def test_a_text_that_is_no_upstream_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(ConfigError, match="--upstream"):
        parse_upstream(f"m=ftp://{text}")
    with suppress(ConfigError):
        parse_upstream(f"m=http://a/v1,{text}")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ("wire=chat", "did you mean 'wires'"),
        ("tokenids=false", "did you mean 'token_ids'"),
        ("price.promt=1", "did you mean 'price.prompt'"),
        ("nonsense=1", "valid settings are api_key_env"),
        ("token_ids=no", "Expected `bool`"),
        ("price.prompt=1", "missing required field `response`"),
        ("model=a,model=b", "'model' twice"),
        ("base_url=http://b/v1", "'base_url' twice"),
    ],
)
def test_a_setting_that_cannot_be_used_is_told(settings: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse_upstream(f"m=http://a/v1,{settings}")


@pytest.mark.parametrize(
    "text",
    [
        "m=http://a/v1,SECRET",
        "m=http://a/v1,key=SECRET",
        "m=http://a/v1,max_concurrency=SECRET",
        "m=ftp://me:SECRET@a",
    ],
)
def test_a_key_that_was_put_in_the_flag_is_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_upstream(text)
    assert "SECRET" not in str(caught.value)


def options(*upstreams: str, **settings: object) -> dict[str, object] | None:
    found = gateway_options(upstreams, observe=False, unsafe=False, **settings)  # type: ignore[arg-type]
    return None if found is None else dict(found)


def test_models_of_the_configuration_file_are_served_and_a_flag_takes_the_place_of_a_whole_one(
    tmp_path: Path,
) -> None:
    file = tmp_path / "agl.toml"
    file.write_text(
        """
        [gateway.upstreams.small]
        base_url = "http://a/v1"
        replicas = ["http://b/v1"]
        price = { prompt = 0.15, response = 0.6 }
        [gateway.upstreams.claude]
        base_url = "https://api.example/v1"
        api_key_env = "CLAUDE_KEY"
        wires = ["messages"]
        token_ids = false
        """
    )
    found = options("claude=http://c/v1", file=load_config(file, {}))
    assert found is not None
    upstreams = found["upstreams"]
    assert isinstance(upstreams, dict)
    assert upstreams["small"]["replicas"] == ("http://b/v1",)
    assert upstreams["small"]["price"] == {"prompt": 0.15, "response": 0.6}
    assert (upstreams["claude"]["base_url"], upstreams["claude"]["api_key_env"]) == ("http://c/v1", "")


def test_a_mistyped_setting_of_the_file_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "agl.toml"
    file.write_text('[gateway.upstreams.small]\nbase_url = "http://a/v1"\napi_key = "X"\n')
    with pytest.raises(
        ConfigError, match=r"agl\.toml:3: .*did you mean 'gateway.upstreams.small.api_key_env'"
    ):
        load_config(file, {})


def test_a_file_without_models_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.toml"
    file.write_text("seed = 1\n")
    with pytest.raises(ConfigError, match=r"mine\.toml' has none; add"):
        options(file=load_config(file, {}))
    with pytest.raises(ConfigError, match=r"no agl\.toml here"):
        options(file=load_config(None, {}))


def test_settings_of_the_gateway_are_nested_and_typed() -> None:
    texts = ("max_calls=5", "http.tries=2", "http.backoff_s=0.5", "sampling.val.temperature=0.0")
    found = options("m=http://a/v1", settings=texts)
    assert found is not None
    assert found["settings"] == {
        "max_calls": 5,
        "http": {"tries": 2, "backoff_s": 0.5},
        "sampling": {"val": {"temperature": 0.0}},
    }


@pytest.mark.parametrize(
    ("texts", "reason"), [(("max_calls",), "NAME=VALUE"), (("=1",), "NAME=VALUE"), (("a=1", "a=2"), "twice")]
)
def test_texts_that_are_no_settings_are_told(texts: tuple[str, ...], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        options("m=http://a/v1", settings=texts)


def test_there_is_no_gateway_without_models_and_nothing_to_set() -> None:
    assert options() is None
    with pytest.raises(ConfigError, match="--gateway-set"):
        options(settings=("max_calls=5",))
