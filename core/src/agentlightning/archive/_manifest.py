"""`manifest.json`: what an archive has, written last, so that an archive with a manifest is whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from agentlightning.archive._kinds import Kind, Layout
from agentlightning.errors import ConfigError

MANIFEST: Final = "manifest.json"
FORMAT: Final = "agentlightning-archive"
VERSION: Final = 1
"""Rises when archives are laid out in a way that older programs cannot read."""
RECORD_VERSION: Final = 1
"""Rises when records get fields that older programs would lose."""
_LARGEST: Final = 2**20
_UNSEALED: Final = "0" * 64


class ArchiveFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of an archive.

    Attributes:
        name: Plain name in the archive's folder.
        records: How many records, or lines, it has.
        sha256: Of its bytes, in hex.
    """

    name: str
    kind: Kind
    records: int
    size_bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an archive has.

    Attributes:
        version: Of the layout; see `VERSION`.
        record_version: Of the records; see `RECORD_VERSION`.
        created_at: When it was made, in seconds since the epoch.
        run_id: The only run it has; None has all.
        unfinished: Whether rollouts that were not over are there too.
        counts: Records by kind.
        seal: SHA-256, in hex, of this file with 64 zeros for a seal.
    """

    format: str = FORMAT
    version: int = VERSION
    record_version: int = RECORD_VERSION
    layout: Layout
    created_at: float
    run_id: str | None = None
    unfinished: bool = False
    counts: dict[Kind, int]
    files: tuple[ArchiveFile, ...]
    seal: str = _UNSEALED


class _Versions(msgspec.Struct, frozen=True):
    """What any manifest has, however new."""

    format: str
    version: int
    record_version: int


def describe(folder: Path, *, name: str, kind: Kind, records: int) -> ArchiveFile:
    """A file as it lies in the folder."""
    path = folder / name
    return ArchiveFile(
        name=name, kind=kind, records=records, size_bytes=path.stat().st_size, sha256=_sha256(path)
    )


def sealed(manifest: Manifest) -> Manifest:
    """The manifest with its seal."""
    blank = msgspec.structs.replace(manifest, seal=_UNSEALED)
    return msgspec.structs.replace(blank, seal=hashlib.sha256(rendered(blank)).hexdigest())


def rendered(manifest: Manifest) -> bytes:
    """The bytes of the file."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an archive.

    Raises:
        ConfigError: There is none, it is damaged, or a newer version wrote it.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ConfigError(
            f"{str(folder)!r} has no {MANIFEST}: it is not an archive, or its export did not end; export again"
        )
    if path.stat().st_size > _LARGEST:
        raise damaged(path, f"it has more than {_LARGEST} bytes")
    data = path.read_bytes()
    try:
        found = msgspec.json.decode(data, type=_Versions)
        if found.format != FORMAT:
            raise ConfigError(f"{str(path)!r} is the manifest of {found.format!r}, not of {FORMAT!r}")
        _check_versions(path, found)
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise damaged(path, str(error)) from error
    if rendered(sealed(manifest)) != data:
        raise damaged(path, "its seal does not fit what it says")
    return manifest


def verify(folder: Path, manifest: Manifest, *, names: Mapping[str, Kind]) -> None:
    """Compares every file with the manifest.

    Args:
        names: Names that files of this layout may have, with what is in them.

    Raises:
        ConfigError: A file is missing, too short, altered, or not one that an archive has.
    """
    for file in manifest.files:
        path = folder / file.name
        if names.get(file.name) is not file.kind:
            raise damaged(folder / MANIFEST, f"it names the file {file.name!r} for {file.kind.value!r}")
        if path.is_symlink() or not path.is_file():
            raise damaged(path, "it is missing, or not a plain file")
        size_bytes = path.stat().st_size
        if size_bytes != file.size_bytes:
            word = "truncated" if size_bytes < file.size_bytes else "too long"
            raise damaged(path, f"it is {word}: {size_bytes} bytes, written were {file.size_bytes}")
        if _sha256(path) != file.sha256:
            raise damaged(path, "its bytes are not those that were written (SHA-256 differs)")


def damaged(path: Path, reason: str) -> ConfigError:
    """What is raised where an archive cannot be trusted."""
    return ConfigError(
        f"the archive is damaged: {str(path)!r}: {reason}; copy the archive here again, or export it again"
    )


def totals(files: Iterable[ArchiveFile]) -> dict[Kind, int]:
    """Records by kind."""
    return {file.kind: file.records for file in files}


def _check_versions(path: Path, found: _Versions) -> None:
    for what, version, known in (
        ("version", found.version, VERSION),
        ("records of version", found.record_version, RECORD_VERSION),
    ):
        if version > known:
            raise ConfigError(
                f"{str(path)!r} says {what} {version}, this program reads up to {known};"
                " install a newer agentlightning-core"
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
