"""Open the file system of a URI, with pyarrow if it knows the scheme, otherwise with fsspec."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

import pyarrow as pa
from pyarrow import fs

from s2l_ray.errors import UserError, shown
from s2l_ray.storage.retry import StorageError
from s2l_ray.text.redact import redact_text, split_user

Kind = Literal["local", "object", "other"]
"""How files are created atomically: `local` by renaming, `object` by closing the upload, `other` by moving."""

_SCHEME = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]+)://")
_OBJECT_STORES = {"s3", "gcs", "gs", "abfs"}


def scheme_of(uri: str) -> str | None:
    """Return the scheme, `s3` for `s3://…`; None for a plain path."""
    match = _SCHEME.match(uri)
    return match.group(1).lower() if match else None


def is_uri(text: str) -> bool:
    """Whether the text is a URI (`scheme://…`), not a plain path."""
    return scheme_of(text) is not None


def absolute(uri: str) -> str:
    """Convert plain paths and file:// URIs to absolute paths, because Ray workers have other working directories.

    Other URIs are returned unchanged.

    Raises:
        UserError: the path is empty or not UTF-8, or a file:// URI names a host.
    """
    if not uri:
        raise UserError("The folder is empty; give a path, or a URI such as s3://bucket/folder.")
    try:
        uri.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{shown(uri)} holds a byte that is not UTF-8, which names here cannot; rename it, or make a link to it"
        ) from None
    scheme = scheme_of(uri)
    if scheme == "file":
        parts = urlsplit(uri)
        if parts.netloc not in ("", "localhost"):
            raise UserError(f"{uri} names a host ({parts.netloc}); a file:// URI has three slashes: file:///folder.")
        uri = unquote(parts.path)
    elif scheme is not None:
        return uri
    return os.path.abspath(os.path.expanduser(uri))


def open_filesystem(uri: str) -> tuple[fs.FileSystem, str, Kind]:
    """Return the file system of an `absolute` URI, the path on it, and its kind.

    Raises:
        UserError: the scheme is unknown, or the URI cannot be parsed.
        StorageError: the file system cannot be reached (its region is looked up over the network).
    """
    if scheme_of(uri) is None:
        return fs.LocalFileSystem(), Path(uri).as_posix(), "local"
    try:
        filesystem, path = fs.FileSystem.from_uri(_for_pyarrow(uri))
    except pa.ArrowInvalid as error:
        if "Unrecognized filesystem type" in str(error):
            return _open_with_fsspec(uri)
        raise UserError(f"Cannot open {redact_text(uri)}: {redact_text(str(error))}. Write a space as %20.") from error
    except OSError as error:
        raise StorageError(
            f"Cannot reach {redact_text(uri)}: {redact_text(str(error))}. Check bucket, endpoint and network; "
            "`?region=…` avoids looking up the region."
        ) from error
    kind: Kind = "object" if filesystem.type_name in _OBJECT_STORES else "other"
    if kind == "object" and not path.strip("/"):
        raise UserError(f"{redact_text(uri)} names no bucket; write {scheme_of(uri)}://bucket/folder")
    return filesystem, path, kind


def _open_with_fsspec(uri: str) -> tuple[fs.FileSystem, str, Kind]:
    import fsspec  # needed only for schemes that pyarrow lacks

    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"Cannot open {redact_text(uri)}: {error}. pyarrow opens paths, file://, s3://, gs://, abfs://, hdfs://; "
            "another scheme needs its fsspec package installed here and on every node."
        ) from error
    return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), path, "other"


def _for_pyarrow(uri: str) -> str:
    """Rewrite S3 URIs for pyarrow, which expects keys in the user part; people also write them as query parameters.

    `allow_delayed_open` uploads small files in one request instead of the three of a multipart upload, so that a killed
    process leaves no unfinished upload behind.
    """
    if scheme_of(uri) != "s3":
        return uri
    scheme, user, rest = split_user(uri)
    # Many secrets contain a slash, which would end the user part.
    uri = f"{scheme}{quote(unquote(user), safe=':')}@{rest}" if user else uri
    parts = urlsplit(uri)
    query = {"allow_delayed_open": "true"} | dict(parse_qsl(parts.query, keep_blank_values=True))
    netloc = parts.netloc
    if {"access_key", "secret_key"} <= query.keys():
        netloc = f"{quote(query.pop('access_key'), safe='')}:{quote(query.pop('secret_key'), safe='')}@{netloc}"
    return urlunsplit((parts.scheme, netloc, parts.path, urlencode(query), parts.fragment))
