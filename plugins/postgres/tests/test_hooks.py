from __future__ import annotations

import subprocess
import sys
from importlib import import_module

from lightning_plugin_postgres import hooks


def test_both_schemes_are_registered_with_a_target_that_loads() -> None:
    specs = hooks.agl_register_stores()
    assert [spec.name for spec in specs] == ["postgresql", "postgres"]
    for spec in specs:
        module, name = spec.target.split(":")
        store = getattr(import_module(module), name)(f"{spec.name}://localhost/lab")
        assert store.url == f"{spec.name}://localhost/lab"


def test_registering_imports_no_driver() -> None:
    code = "import sys, lightning_plugin_postgres.hooks; print({'psycopg'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
