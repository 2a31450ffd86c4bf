"""Import strings: `module:object` and `file.py:object`, turned into the objects they name."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from agentlightning.errors import TargetError


def load_target(target: str) -> object:
    """Imports what `target` names.

    Args:
        target: `module:object` (looked up on the path and in the working directory) or `path/to/file.py:object`;
            the object may be dotted. `path/to/file.toml:name` is a command, see `command.load_command`.

    Raises:
        TargetError: The form is wrong, the module cannot be imported, or it has no such object.
    """
    place, separator, name = target.rpartition(":")
    if not separator or not place or not name:
        raise TargetError(f"{target!r} names nothing to import; write 'module:object' or 'file.py:object'")
    if place.endswith(".toml"):
        from agentlightning.command import load_command

        return load_command(Path(place), name)
    module = _load_file(Path(place), target) if place.endswith(".py") else _load_module(place, target)
    found: object = module
    for part in name.split("."):
        if not hasattr(found, part):
            public = ", ".join(sorted(key for key in vars(module) if not key.startswith("_"))) or "nothing"
            raise TargetError(f"{target!r}: {place!r} has no {part!r}; it has {public}")
        found = getattr(found, part)
    return found


def target_of(found: object) -> str | None:
    """The import string of an object that can be found again by one, else None."""
    module, name = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    if not module or not name or "<" in name:
        return None
    loaded = sys.modules.get(module)
    place = module
    if module == "__main__" or module.startswith(_FILE_PREFIX):
        file = getattr(loaded, "__file__", None)
        if file is None:
            return None
        place = str(Path(file).resolve())
    return f"{place}:{name}" if getattr(loaded, name.split(".")[0], None) is not None else None


_FILE_PREFIX = "agl_target_"


def _load_file(path: Path, target: str) -> ModuleType:
    if not path.is_file():
        raise TargetError(
            f"{target!r}: there is no file {str(path)!r}; the working directory is {str(Path.cwd())!r}"
        )
    resolved = path.resolve()
    name = f"{_FILE_PREFIX}{resolved.stem}_{abs(hash(str(resolved))):x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, resolved)
    if spec is None or spec.loader is None:
        raise TargetError(f"{target!r}: {str(path)!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(
        0, str(resolved.parent)
    )  # the file imports its neighbours as it does when run as a script
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise TargetError(f"{target!r}: {str(path)!r} fails on import: {error!r}") from error
    finally:
        sys.path.remove(str(resolved.parent))
    return module


def _load_module(name: str, target: str) -> ModuleType:
    added = str(Path.cwd())
    sys.path.append(added)
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise TargetError(f"{target!r}: module {name!r} cannot be imported: {error!r}") from error
    finally:
        sys.path.remove(added)
