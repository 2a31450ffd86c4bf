from __future__ import annotations

import subprocess
import sys
from importlib import import_module

from lightning_plugin_server import hooks


def test_what_is_registered_loads() -> None:
    specs = [*hooks.agl_register_commands(), *hooks.agl_register_stores()]
    assert [spec.name for spec in specs] == ["serve", "token", "http", "https"]
    for spec in specs:
        module, name = spec.target.split(":")
        assert callable(getattr(import_module(module), name))


def test_registering_imports_no_web_server() -> None:
    code = "import sys, lightning_plugin_server.hooks; print({'aiohttp', 'uvicorn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
