from __future__ import annotations

import subprocess
import sys
from importlib import import_module

from lightning_plugin_gateway import hooks


def test_the_gateway_is_registered_as_an_app_whose_target_loads() -> None:
    spec, mounted = hooks.agl_register_apps()
    assert (spec.mount, mounted.name, mounted.mount) == ("", "llm", "/")
    module, name = spec.target.split(":")
    assert spec.name == "gateway"
    assert callable(getattr(import_module(module), name))


def test_registering_imports_no_web_server() -> None:
    code = "import sys, lightning_plugin_gateway.hooks; print({'aiohttp', 'uvicorn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
