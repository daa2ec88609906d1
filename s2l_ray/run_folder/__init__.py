"""The run folder: reads and writes every stage's artifact, on local disks and object stores.

Manifests written last and atomically, one writer at a time, a record of what happened. Imports no Ray.
"""

from s2l_ray.run_folder.digests import FileDigest, columns_digest
from s2l_ray.run_folder.display import aligned, one_line, printable
from s2l_ray.run_folder.filesystems import is_uri
from s2l_ray.run_folder.lock import RunLock, RunLockedError, RunLockLostError
from s2l_ray.run_folder.manifest import (
    EarlierLayout,
    ManifestError,
    ManifestFiles,
    StageManifest,
    fingerprint,
    installed_versions,
    read_manifest,
    retract,
    write_manifest,
)
from s2l_ray.run_folder.metrics_log import MetricsLog, read_metrics
from s2l_ray.run_folder.outputs import FileProblem, OutputFile, list_outputs, verify_digests, verify_outputs
from s2l_ray.run_folder.progress import Progress, StageProgress
from s2l_ray.run_folder.redact import redact_text, strip_credentials
from s2l_ray.run_folder.retry import DamagedFile, MissingFile, RetryPolicy, StorageError, StorageFull
from s2l_ray.run_folder.scratch import scratch_folder
from s2l_ray.run_folder.storage import FileEntry, Storage

__all__ = [
    "DamagedFile",
    "EarlierLayout",
    "FileDigest",
    "FileEntry",
    "FileProblem",
    "ManifestError",
    "ManifestFiles",
    "MetricsLog",
    "MissingFile",
    "OutputFile",
    "Progress",
    "RetryPolicy",
    "RunLock",
    "RunLockLostError",
    "RunLockedError",
    "StageManifest",
    "StageProgress",
    "Storage",
    "StorageError",
    "StorageFull",
    "aligned",
    "columns_digest",
    "fingerprint",
    "installed_versions",
    "is_uri",
    "list_outputs",
    "one_line",
    "printable",
    "read_manifest",
    "read_metrics",
    "redact_text",
    "retract",
    "scratch_folder",
    "strip_credentials",
    "verify_digests",
    "verify_outputs",
    "write_manifest",
]
