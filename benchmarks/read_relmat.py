"""Time and memory to read a folder of XCP-D: 2,000 matrices of 268 regions by default, 2.9 GB of text.

    python benchmarks/read_relmat.py [--scans 2000] [--regions 268] [--folder FOLDER]

The files are written first (to a temporary folder that is removed), and are then in the cache of the system; a disk adds
its own time. A probe beside it, reading the same bytes without parsing them, shows how much of the time that is.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd


def write_folder(root: Path, n_scans: int, n_regions: int) -> pd.DataFrame:
    """Write matrices with all digits, as XCP-D does; twenty different ones, since writing takes longer than reading."""
    rng = np.random.default_rng(1)
    regions = [f"LH_SomMot_{k + 1}" for k in range(n_regions)]
    texts = []
    for _ in range(min(20, n_scans)):
        matrix = np.corrcoef(rng.normal(size=(n_regions, 200)))
        frame = pd.DataFrame(matrix, index=pd.Index(regions, name="Node"), columns=regions)
        texts.append(frame.to_csv(sep="\t", na_rep="n/a"))
    rows = []
    for k in range(n_scans):
        stem = f"sub-{k // 2:04d}_ses-{k % 2 + 1}_task-rest"
        folder = root / f"sub-{k // 2:04d}" / f"ses-{k % 2 + 1}" / "func"
        folder.mkdir(parents=True)
        name = f"{stem}_space-MNI152NLin2009cAsym_atlas-Shen268_stat-pearsoncorrelation_relmat.tsv"
        (folder / name).write_text(texts[k % len(texts)])
        rows.append((stem, f"sub-{k // 2:04d}", "AB"[k % 2]))
    return pd.DataFrame(rows, columns=["scan_id", "participant_id", "scanner"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=2000)
    parser.add_argument("--regions", type=int, default=268)
    parser.add_argument("--folder", type=Path, help="where to write the files; default: the temporary folder")
    options = parser.parse_args()
    from bayesharm.cli.progress_bar import ProgressBar, peak_memory
    from bayesharm.data.dataset import load_dataset

    root = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        scans = write_folder(root, options.scans, options.regions)
        files = list(root.rglob("*.tsv"))
        start = perf_counter()
        size = sum(len(path.read_bytes()) for path in files)
        probe = perf_counter() - start
        print(f"{len(files):,} files, {size / 1e9:.1f} GB; reading the bytes alone: {probe:.1f} s; memory {peak_memory()}")
        with ProgressBar() as progress:
            start = perf_counter()
            dataset = load_dataset(scans, root, check="apply", progress=progress)
            loaded = perf_counter() - start
        for first, last in dataset.features.blocks():
            dataset.features.read(first, last)
        everything = perf_counter() - start
        print(f"{dataset.features.n_scans:,} scans × {dataset.features.n_features:,} edges in {loaded:.1f} s")
        print(f"with all values read again, block by block: {everything:.1f} s; peak memory {peak_memory()}")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
