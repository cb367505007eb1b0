"""Files that a stranger could send: each is small, and claims or hides something that would do harm."""

from __future__ import annotations

import base64
import gzip
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

import bayesharm
from bayesharm.data.bids.scans import read_bids_scans

HUGE = 10**12
SCANS = pd.DataFrame({"scan_id": list("123"), "participant_id": list("aab"), "scanner": list("ABA")})
FILES: dict[str, tuple[Callable[[Path], object], str]] = {}  # name -> what reads the file, and what the error says


class Trap:
    """An object whose unpickling leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def hostile(message: str) -> Callable[[Callable[[Path], object]], Callable[[Path], object]]:
    """Register a function that writes a file into a folder and reads it."""

    def register(function: Callable[[Path], object]) -> Callable[[Path], object]:
        FILES[function.__name__] = (function, message)
        return function

    return register


def read(features: Path) -> None:
    dataset = bayesharm.load_dataset(SCANS, features)
    dataset.features.read(np.arange(2))


def npy(shape: tuple[int, ...], content: bytes = b"", dtype: str = "<f8") -> bytes:
    heading = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(heading).to_bytes(2, "little") + heading + content


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@hostile("mmap length is greater")
def npy_of_a_trillion_scans(folder: Path) -> None:
    read(write(folder / "f.npy", npy((HUGE, 10))))


@hostile("no features")
def npy_of_a_trillion_empty_matrices(folder: Path) -> None:
    read(write(folder / "f.npy", npy((HUGE, 0, 0))))


@hostile("too many features|Cannot allocate")
def npy_with_a_hole_of_a_terabyte(folder: Path) -> None:
    path = write(folder / "f.npy", npy((3, HUGE // 8)))
    os.truncate(path, 128 + 3 * HUGE)
    read(path)


@hostile("Python objects")
def npy_of_pickled_objects(folder: Path) -> None:
    read(write(folder / "f.npy", npy((3, 4), pickle.dumps(Trap(folder / "trapped")), "|O")))


def zipped(path: Path, member: str, content: bytes, declared: int | None = None) -> Path:
    """Write a zip archive whose one member declares another size than it has."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
    if declared is not None:
        data = bytearray(path.read_bytes())
        at = data.rindex(b"PK\x01\x02") + 24  # in the central directory
        data[at : at + 4] = struct.pack("<I", declared)
        path.write_bytes(data)
    return path


@hostile("Unable to allocate")
def npz_of_a_trillion_scans(folder: Path) -> None:
    read(zipped(folder / "f.npz", "features.npy", npy((HUGE, 10))))


@hostile("far larger than the file")
def npz_bomb(folder: Path) -> None:
    read(zipped(folder / "f.npz", "features.npy", npy((3, 10**8)) + bytes(10**6), declared=3 * 10**9))


@hostile("far larger than the file")
def npz_bomb_of_time_series(folder: Path) -> None:
    path = zipped(folder / "series.npz", "a.npy", npy((10**4, 10**4)) + bytes(10**6), declared=3 * 10**9)
    bayesharm.connectivity(path)


@hostile("pickled|not an array of numbers")
def npz_of_pickled_names(folder: Path) -> None:
    names = np.array([Trap(folder / "trapped")] * 4, dtype=object)
    np.savez(folder / "f.npz", allow_pickle=True, features=np.eye(3, 4), names=names)
    read(folder / "f.npz")


def zarr_array(
    folder: Path, shape: list[int], chunks: list[int], codecs: list[dict[str, object]], chunk: bytes = b""
) -> Path:
    about = {
        "zarr_format": 3, "node_type": "array", "shape": shape, "data_type": "float64", "codecs": codecs, "fill_value": 0,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
        "chunk_key_encoding": {"name": "default"},
    }  # fmt: skip
    write(folder / "zarr.json", json.dumps(about).encode())
    if chunk:
        write(folder.joinpath("c", *"0" * len(shape)), chunk)
    return folder


BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
ZSTD = {"name": "zstd", "configuration": {"level": 0, "checksum": False}}


@hostile("far larger than the file")
def zarr_of_a_trillion_scans(folder: Path) -> None:
    read(zarr_array(folder / "f.zarr", [HUGE, HUGE], [10**6, 10**6], [BYTES]))


@hostile("far larger than the file")
def zarr_of_a_million_regions(folder: Path) -> None:
    read(zarr_array(folder / "f.zarr", [3, 10**6, 10**6], [1, 10**6, 10**6], [BYTES]))


@hostile("far larger than the file")
def zarr_with_a_huge_chunk(folder: Path) -> None:
    read(zarr_array(folder / "f.zarr", [3, 4], [3, 10**9], [BYTES, ZSTD], b"\x28\xb5\x2f\xfd"))


@hostile("far larger than the file")
def zarr_with_a_bomb_in_a_chunk(folder: Path) -> None:
    frame = b"\x28\xb5\x2f\xfd\xe0" + (10**11).to_bytes(8, "little") + bytes(8)
    read(zarr_array(folder / "f.zarr", [3, 4], [3, 4], [BYTES, ZSTD], frame))


@hostile("codec 'pickle'")
def zarr_with_pickled_labels(folder: Path) -> None:
    """The trap is in the labels: those are read even if the features are right."""
    write(folder / "f.zarr" / ".zgroup", b'{"zarr_format": 2}')
    common = {"zarr_format": 2, "order": "C", "compressor": None}
    numbers = common | {"shape": [3, 4], "chunks": [3, 4], "dtype": "<f8", "filters": None, "fill_value": 0}
    codecs = [{"id": "vlen-utf8"}, {"id": "pickle", "protocol": 5}]
    labels = common | {"shape": [4], "chunks": [4], "dtype": "|O", "filters": codecs, "fill_value": ""}
    write(folder / "f.zarr" / "features" / ".zarray", json.dumps(numbers).encode())
    write(folder / "f.zarr" / "features" / "0.0", np.eye(3, 4).tobytes())
    write(folder / "f.zarr" / "names" / ".zarray", json.dumps(labels).encode())
    write(folder / "f.zarr" / "names" / "0", pickle.dumps(Trap(folder / "trapped")))
    read(folder / "f.zarr")


def zarr_group(folder: Path, members: dict[str, object]) -> Path:
    """Write a group whose members are in its consolidated metadata alone."""
    inline = {"kind": "inline", "must_understand": False, "metadata": members}
    about = {"zarr_format": 3, "node_type": "group", "attributes": {}, "consolidated_metadata": inline}
    return write(folder / "zarr.json", json.dumps(about).encode()).parent


PICKLED = {
    "zarr_format": 2, "shape": [3, 4], "chunks": [3, 4], "dtype": "<f8", "order": "C", "fill_value": 0, "filters": None,
    "compressor": {"id": "pickle"},
}  # fmt: skip


@hostile("codec 'pickle'")
def zarr_with_an_array_named_attributes(folder: Path) -> None:
    """Attributes of a group may hold anything; an array with their name may not."""
    read(zarr_group(folder / "f.zarr", {"attributes": PICKLED}))


@hostile("codec 'pickle'")
def zarr_with_an_array_named_like_a_codec(folder: Path) -> None:
    read(zarr_group(folder / "f.zarr", {"filters": PICKLED | {"name": "bytes"}}))


@hostile("codec 'pickle'")
def zarr_with_a_codec_of_two_names(folder: Path) -> None:
    read(zarr_group(folder / "f.zarr", {"x": PICKLED | {"compressor": {"id": "pickle", "name": "zlib"}}}))


@hostile("codec 'pickle'")
def zarr_with_metadata_in_capitals(folder: Path) -> None:
    """Where file systems do not tell cases apart, Zarr finds it as `zarr.json`."""
    zarr_array(folder / "f.zarr", [3, 4], [3, 4], [{"name": "pickle"}])
    (folder / "f.zarr" / "zarr.json").rename(folder / "f.zarr" / "ZARR.json")
    read(folder / "f.zarr")


@hostile("outside the store")
def zarr_with_a_path_outside(folder: Path) -> None:
    entries = {".zgroup": {"zarr_format": 2}, "../secret/.zarray": {"shape": [3, 4]}}
    write(folder / "f.zarr" / ".zgroup", b'{"zarr_format": 2}')
    write(folder / "f.zarr" / ".zmetadata", json.dumps({"metadata": entries, "zarr_consolidated_format": 1}).encode())
    read(folder / "f.zarr")


@hostile("recursion|nested")
def zarr_with_deep_metadata(folder: Path) -> None:
    read(write(folder / "f.zarr" / "zarr.json", b"[" * 200_000).parent)


@hostile("a pipe or a device")
def zarr_with_a_pipe(folder: Path) -> None:
    (folder / "f.zarr").mkdir()
    os.mkfifo(folder / "f.zarr" / "zarr.json")
    read(folder / "f.zarr")


def workbook(path: Path, changes: dict[bytes, bytes]) -> Path:
    """Write a workbook, and change its sheet."""
    source = path.with_name("source.xlsx")
    SCANS.assign(f=1.5).to_excel(source, index=False)
    with zipfile.ZipFile(source) as given, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name in given.namelist():
            content = given.read(name)
            for old, new in changes.items() if name == "xl/worksheets/sheet1.xml" else ():
                assert old in content
                content = content.replace(old, new)
            made.writestr(name, content)
    return path


def read_workbook(path: Path) -> None:
    bayesharm.load_dataset(path, select=["f"])


@hostile("cells, of at most")
def xlsx_of_a_billion_cells(folder: Path) -> None:
    row = b'<row r="20000"><c r="XFD20000"><v>1</v></c></row></sheetData>'
    read_workbook(workbook(folder / "a.xlsx", {b"</sheetData>": row}))


@hostile("more than 1,048,576 rows")
def xlsx_of_a_trillion_rows(folder: Path) -> None:
    row = f'<row r="{HUGE}"><c r="A{HUGE}"><v>1</v></c></row></sheetData>'.encode()
    read_workbook(workbook(folder / "a.xlsx", {b"</sheetData>": row}))


@hostile("amplification|entit")
def xlsx_with_a_billion_laughs(folder: Path) -> None:
    entities = b"".join(b'<!ENTITY a%d "%s">' % (k, b"&a%d;" % (k - 1) * 10) for k in range(1, 11))
    heading = b'<!DOCTYPE x [<!ENTITY a0 "lol">' + entities + b"]><worksheet "
    cell = b'<row r="9"><c r="A9" t="inlineStr"><is><t>&a10;</t></is></c></row></sheetData>'
    workbook(folder / "b.xlsx", {b"<worksheet ": heading, b"</sheetData>": cell})
    read_workbook(folder / "b.xlsx")


@hostile("far larger than the file")
def xlsx_bomb(folder: Path) -> None:
    read_workbook(zipped(folder / "a.xlsx", "xl/workbook.xml", bytes(10**6), declared=3 * 10**9))


def read_repeated_text(path: Path, claimed: object) -> None:
    """Read fifty gigabytes of text from a few kilobytes, of a type that the file claims."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    repeated = pa.DictionaryArray.from_arrays(np.zeros(50_000, np.int32), ["x" * 10**6])
    table = pa.table({"participant_id": repeated, "scanner": repeated, "f": np.zeros(len(repeated))})
    schema = pa.schema([("participant_id", claimed), ("scanner", claimed), ("f", pa.float64())])
    options = {"compression": "zstd", "store_schema": False, "write_statistics": False}
    with pq.ParquetWriter(path, table.schema, **options) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"ARROW:schema": base64.b64encode(schema.serialize().to_pybytes()).decode()})
    assert pq.read_schema(path).field("scanner").type == claimed
    bayesharm.load_dataset(path, select=["f"])


@hostile("[Ll]abel|scanner")
def parquet_of_one_text_repeated(folder: Path) -> None:
    """Read as it is stored, it needs one megabyte."""
    import pyarrow as pa

    read_repeated_text(folder / "a.parquet", pa.string())


@hostile("[Ll]abel|scanner")
def parquet_of_one_large_text_repeated(folder: Path) -> None:
    import pyarrow as pa

    read_repeated_text(folder / "a.parquet", pa.large_string())


@hostile("far larger than the file")
def parquet_of_one_text_repeated_in_lists(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    repeated = pa.DictionaryArray.from_arrays(np.zeros(20_000, np.int32), ["x" * 10**6])
    lists, numbers = pa.ListArray.from_arrays(np.arange(20_001), repeated), np.arange(20_000)
    table = pa.table({"participant_id": numbers, "scanner": lists, "f": numbers})
    pq.write_table(table, folder / "a.parquet", compression="zstd", store_schema=False, write_statistics=False)
    bayesharm.load_dataset(folder / "a.parquet", select=["f"])


@hostile("far larger than the file")
def parquet_of_a_billion_zeros(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    zeros = pa.table({"f": pa.array(np.zeros(10**6))})
    with pq.ParquetWriter(folder / "a.parquet", zeros.schema, compression="zstd") as writer:
        for _ in range(150):
            writer.write_table(zeros)
    read(folder / "a.parquet")


@hostile("too many columns")
def csv_of_a_million_columns(folder: Path) -> None:
    read(write(folder / "f.csv", b"scan_id" + b",1" * 10**6 + b"\n"))


@hostile("label is too long")
def csv_with_a_label_of_a_megabyte(folder: Path) -> None:
    rows = [f"{k},{'x' * 10**6 if k == 100 else k},{'AB'[k % 2]},{k % 7}" for k in range(20_000)]
    bayesharm.load_dataset(
        write(folder / "a.csv", "\n".join(["scan_id,participant_id,scanner,f", *rows]).encode()), select=["f"]
    )


def load_model(folder: Path, text: str) -> None:
    from bayesharm.model.catalog import load_model

    write(folder / "model.toml", text.encode())
    load_model(str(folder))


@hostile("not valid TOML")
def toml_with_deep_arrays(folder: Path) -> None:
    load_model(folder, "a = " + "[" * 50_000)


@hostile("not valid TOML")
def toml_with_a_number_of_5000_digits(folder: Path) -> None:
    load_model(folder, "a = " + "9" * 5000)


@hostile("not valid TOML")
def toml_with_a_key_of_200000_parts(folder: Path) -> None:
    load_model(folder, "a" + ".a" * 200_000 + " = 1")


@hostile("not valid TOML")
def toml_with_a_key_of_30000_parts(folder: Path) -> None:
    load_model(folder, "a" + ".a" * 30_000 + " = 1")


@hostile("without slash")
def toml_with_a_family_outside_the_run(folder: Path) -> None:
    from bayesharm.model.catalog import models_folder

    text = (models_folder() / "traveling" / "model.toml").read_text()
    load_model(folder, text.replace('name = "measurement"', 'name = "../../x"'))


@hostile("ends within a variable")
def mat_bomb(folder: Path) -> None:
    from bayesharm.data.readers.matlab_files import read_matlab

    n = 1 << 28
    packer = zlib.compressobj(1)
    words = (6, 8, 9, 0, 5, 8, n >> 8, 1 << 8, 0x10001, ord("Z"), 2, n)
    inner = struct.pack("<14I", 14, 4 * len(words) + n, *words)
    body = packer.compress(inner) + b"".join(packer.compress(bytes(1 << 20)) for _ in range(n >> 20)) + packer.flush()
    heading = b" " * 124 + b"\x00\x01IM" + struct.pack("<2I", 15, len(body))
    read_matlab(write(folder / "a.mat", heading + body), ["Z"])


def bids(folder: Path) -> Path:
    """Write a dataset of one image, without its sidecar."""
    write(folder / "bids" / "sub-1" / "func" / "sub-1_task-rest_bold.nii.gz", b"")
    return folder / "bids"


@hostile("not a plain file")
def bids_with_a_pipe_for_a_sidecar(folder: Path) -> None:
    os.mkfifo(bids(folder) / "task-rest_bold.json")
    read_bids_scans(folder / "bids")


@hostile("recursion")
def bids_with_a_deep_sidecar(folder: Path) -> None:
    write(bids(folder) / "task-rest_bold.json", b"[" * 200_000)
    read_bids_scans(folder / "bids")


@hostile("loop of links")
def bids_with_a_link_to_itself(folder: Path) -> None:
    (bids(folder) / "sub-1" / "ses-1").symlink_to(folder / "bids")
    read_bids_scans(folder / "bids")


@hostile("far larger than the file")
def nifti_of_a_trillion_voxels(folder: Path) -> None:
    import nibabel

    from bayesharm.data.timeseries.fmriprep import read_atlas

    heading = nibabel.Nifti1Header()
    heading.set_data_shape((10_000, 10_000, 10_000))
    heading["magic"], heading["vox_offset"] = b"n+1", 352
    read_atlas(write(folder / "atlas.nii.gz", gzip.compress(heading.binaryblock + bytes(1000))), None)
