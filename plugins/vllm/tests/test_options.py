"""Options that contradict each other are refused before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentlightning.errors import ConfigError
from lightning_plugin_vllm import create_backend

URL = "http://127.0.0.1:8000/v1"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs a model"),
        ({"modle": "x"}, "did you mean 'model'"),
        ({"model": "x", "build": {}}, "one of model and build"),
        ({"build": {}, "serve_only": True}, "build is the learner's work"),
        ({"model": "/nowhere"}, r"'/nowhere' has no config\.json"),
        ({"model": "x", "serve_only": True, "replicas": 0}, "replicas is 0"),
        ({"model": "x", "serve_only": True, "servers": [URL], "update": "restart"}, "not started here"),
        ({"servers": ["127.0.0.1:8000"], "serve_only": True}, "no base URL"),
        ({"build": {}, "learner": {"dtype": "float32"}}, r"learner sets \['dtype'\]"),
        ({"servers": [URL], "serve_only": True, "api_key_env": "NO_SUCH_VARIABLE"}, "is not set"),
        ({"build": {"corpus": "/nowhere"}}, "corpus"),
        ({"model": "x", "serve_only": True, "dtype": "float8"}, "float8"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        create_backend(options, seed=0, directory=tmp_path)
