"""Where the server's key is kept, so that it is the same at the next start."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from agentlightning.errors import ConfigError


def state_folder() -> Path:
    """The user's folder for what programs keep: `$XDG_STATE_HOME/agentlightning`, or below `~/.local/state`."""
    base = os.environ.get("XDG_STATE_HOME", "")
    return (Path(base) if base else Path.home() / ".local" / "state") / "agentlightning"


def key_file(option: str | None = None) -> Path:
    """The file of the server's key."""
    return Path(option) if option else state_folder() / "server.key"


def read_key(path: Path) -> str | None:
    """The key in a file; None if there is none.

    Raises:
        ConfigError: The file cannot be read, is empty, or others may read it.
    """
    try:
        mode = path.stat().st_mode
        key = path.read_text().strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"the key file {str(path)!r} cannot be read: {error}") from error
    if mode & 0o077:
        raise ConfigError(f"others may read the key file {str(path)!r}; run: chmod 600 {path}")
    if not key:
        raise ConfigError(f"the key file {str(path)!r} is empty; delete it, and a new key is made")
    return key


def make_key(path: Path) -> str:
    """Makes a key and keeps it in a file that only its owner may read. Of two at once, one makes it for both."""
    key = secrets.token_urlsafe(32)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return read_key(path) or make_key(path)
    except OSError as error:
        raise ConfigError(
            f"no key can be kept in {str(path)!r} ({error}); set AGL_KEY, or name another place with --key-file"
        ) from error
    with os.fdopen(handle, "w") as file:
        file.write(key + "\n")
    return key
