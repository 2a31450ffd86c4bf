"""Archives: everything in a store as files, to keep, to share, and to train on elsewhere."""

from agentlightning.archive._export import export_store
from agentlightning.archive._import import Imported, import_archive
from agentlightning.archive._kinds import Kind, Layout
from agentlightning.archive._manifest import ArchiveFile, Manifest, read_manifest

__all__ = [
    "ArchiveFile",
    "Imported",
    "Kind",
    "Layout",
    "Manifest",
    "export_store",
    "import_archive",
    "read_manifest",
]
