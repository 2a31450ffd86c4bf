from __future__ import annotations

import re
from pathlib import Path

import pytest

from lightning_plugin_postgres.testing import find_binaries

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.skipif(find_binaries() is None, reason="there are no PostgreSQL binaries here")
def test_the_example_in_the_readme_runs() -> None:
    names: dict[str, object] = {}
    for snippet in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL):
        exec(snippet, names)
    assert str(names["url"]).endswith("/postgres?schema=mine")
