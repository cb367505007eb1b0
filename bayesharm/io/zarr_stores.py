"""Checks of a Zarr store before Zarr reads it: arrays of numbers and text only, and no larger than their files explain."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bayesharm.io.limits import LARGEST_JSON, read_small, refuse_expansion, walk_files

METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
# Codecs that turn bytes into numbers or text. Others exist that run code: `pickle` of Zarr 2.
CODECS = frozenset(
    "bytes transpose sharding_indexed vlen-utf8 vlen-bytes vlen_utf8 endian blosc zstd gzip zlib lz4 bz2 lzma crc32 crc32c "
    "adler32 fletcher32 shuffle delta fixedscaleoffset quantize bitround packbits astype scale_offset cast_value".split()
)
_CODEC_KEYS = ("codecs", "index_codecs", "filters", "compressor", "compressors", "serializer")
_ZSTD = b"\x28\xb5\x2f\xfd"  # begins a frame of Zstandard


def check_store(folder: Path, *, allow_links: bool) -> None:
    """Refuse a store that Zarr should not open.

    Parameters
    ----------
    folder : Path
    allow_links : bool
        Allow links to plain files.

    Raises
    ------
    ValueError, InputError
        A codec is not among :data:`CODECS`, the metadata are unreadable, arrays or chunks are far larger than all files
        together, or something in the folder is no plain file.
    OSError
        A file cannot be read.
    """
    stored, expanded, in_frames = 0, 0, 0
    for path in walk_files(folder, allow_links=allow_links):
        stored += path.stat().st_size
        name = path.name.casefold()  # some file systems do not tell cases apart
        if name in METADATA:
            expanded += sum(map(_size, _arrays(_read_json(path), name)))
        else:
            in_frames += _frame_size(path)
    refuse_expansion(folder, stored, max(expanded, in_frames))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(read_small(path, LARGEST_JSON))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name}: {error}") from None


def _arrays(node: Any, file: str) -> Iterator[dict[str, Any]]:
    """Find the metadata of all arrays, also of those in consolidated metadata; refuse unknown codecs."""
    if isinstance(node, list):
        for each in node:
            yield from _arrays(each, file)
    if not isinstance(node, dict) or file == ".zattrs":
        return
    is_metadata = "zarr_format" in node  # else keys are names of arrays, which may be `attributes` or `filters` too
    for key, value in node.items():
        if key.startswith("/") or ".." in key.split("/"):  # in consolidated metadata, keys are paths
            raise ValueError(f"the path {key!r}, which leads outside the store")
        if is_metadata and key in _CODEC_KEYS:
            _check_codecs(value)
        elif not (is_metadata and key == "attributes") and not (file == ".zmetadata" and key.split("/")[-1] == ".zattrs"):
            yield from _arrays(value, file)
    if "shape" in node:
        yield node


def _check_codecs(value: Any) -> None:
    for codec in value if isinstance(value, list) else [value]:
        if codec is None:
            continue
        about = codec if isinstance(codec, dict) else {"name": codec}
        for name in [about[key] for key in ("name", "id") if key in about] or [None]:
            if str(name).removeprefix("numcodecs.").removeprefix("numcodecs/") not in CODECS:
                raise ValueError(f"the codec {name!r}, which bayesharm does not read")
        settings = about.get("configuration")
        for key, inner in settings.items() if isinstance(settings, dict) else ():
            if key in _CODEC_KEYS:
                _check_codecs(inner)


def _size(array: dict[str, Any]) -> int:
    """Return the bytes of an array or of one of its chunks, whichever is larger."""
    grid = array.get("chunk_grid")
    settings = grid.get("configuration") if isinstance(grid, dict) else None
    chunks = settings.get("chunk_shape") if isinstance(settings, dict) else array.get("chunks")
    sizes = [
        math.prod(shape) for shape in (array["shape"], chunks)
        if isinstance(shape, list) and all(isinstance(length, int) for length in shape)
    ]  # fmt: skip
    return max(sizes, default=0) * _item_size(array.get("data_type", array.get("dtype")))


def _item_size(kind: Any) -> int:
    if isinstance(kind, dict) and isinstance(kind.get("configuration"), dict):
        length = kind["configuration"].get("length_bytes", 8)
        return length if isinstance(length, int) else 8
    try:
        return max(1, np.dtype(kind).itemsize)
    except (TypeError, ValueError):
        return 8  # text of any length


def _frame_size(path: Path) -> int:
    """Return the size that a frame of Zstandard declares for its content; 0 for other files.

    Source: RFC 8878, section 3.1.1.1.
    """
    with path.open("rb") as file:
        head = file.read(18)
    if not head.startswith(_ZSTD) or len(head) < 6:
        return 0
    flags = head[4]
    has_window, length = not flags & 0x20, (0, 2, 4, 8)[flags >> 6]
    if not length:
        length = 0 if has_window else 1
    start = 5 + has_window + (0, 1, 2, 4)[flags & 3]
    return int.from_bytes(head[start : start + length], "little") + (256 if length == 2 else 0)
