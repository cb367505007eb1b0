"""Small derivatives of other tools, under the names that the tools use, with known values."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

REGIONS = ["LH_Vis_1", "LH_Vis_2", "RH_Default_PFC", "Hippocampus-L", "Cerebellar_Region1"]
ATLAS = "4S156Parcels"
# A traveler in three sessions on two scanners, and people with one session each; sub-03 has no session A.
SESSIONS = [("01", "A", "X"), ("01", "B", "Y"), ("01", "C", "Y"), ("02", "A", "X"), ("03", "B", "Y"), ("04", "A", "X")]
STEMS = [f"sub-{person}_ses-{session}_task-rest_run-1" for person, session, _ in SESSIONS]


def make_scans() -> pd.DataFrame:
    """Return a table as `bayesharm scans` writes it."""
    return pd.DataFrame(
        [
            (stem, f"sub-{person}", session, scanner)
            for stem, (person, session, scanner) in zip(STEMS, SESSIONS, strict=True)
        ],
        columns=["scan_id", "participant_id", "session", "scanner"],
    )


def make_matrices(n_scans: int = len(STEMS), n_regions: int = len(REGIONS)) -> np.ndarray:
    """Return correlation matrices, (scan, region, region)."""
    rng = np.random.default_rng(11)
    return np.stack([np.corrcoef(rng.normal(size=(n_regions, 40))) for _ in range(n_scans)])


def lower(matrices: np.ndarray) -> np.ndarray:
    """Return the lower triangles, (scan, edge)."""
    return matrices[:, *np.tril_indices(matrices.shape[1], -1)]


def edges(regions: list[str] = REGIONS) -> list[str]:
    """Return the names of the edges."""
    return [f"edge_{regions[i]}_{regions[j]}" for i in range(len(regions)) for j in range(i)]


def folder_of(root: Path, stem: str, kind: str = "func") -> Path:
    """Make and return the folder of a scan in a BIDS derivative."""
    parts = [part for part in stem.split("_") if part.startswith(("sub-", "ses-"))]
    folder = root.joinpath(*parts, kind)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_description(root: Path, name: str, version: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    content = {"Name": name, "BIDSVersion": "1.9.0", "GeneratedBy": [{"Name": name, "Version": version}]}
    (root / "dataset_description.json").write_text(json.dumps(content))


def write_relmat(path: Path, matrix: np.ndarray, regions: list[str] = REGIONS) -> None:
    frame = pd.DataFrame(matrix, index=pd.Index(regions, name="Node"), columns=regions)
    frame.to_csv(path, sep="\t", na_rep="n/a")


def write_xcp_d(root: Path, matrices: np.ndarray | None = None, atlases: tuple[str, ...] = (ATLAS,)) -> np.ndarray:
    """Write a folder of XCP-D 0.10: correlations, ReHo, thickness, motion and outliers; return the correlations."""
    matrices = make_matrices() if matrices is None else matrices
    write_description(root, "XCP-D", "0.10.6")
    space = "space-MNI152NLin2009cAsym"
    for k, stem in enumerate(STEMS):
        func, anat = folder_of(root, stem), folder_of(root, stem, "anat")
        for atlas in atlases:
            write_relmat(func / f"{stem}_{space}_atlas-{atlas}_stat-pearsoncorrelation_relmat.tsv", matrices[k])
            row = pd.DataFrame([matrices[k][0] + k], columns=REGIONS)
            row.to_csv(func / f"{stem}_{space}_atlas-{atlas}_stat-reho_bold.tsv", sep="\t", index=False, na_rep="n/a")
            anatomical = stem.partition("_task")[0]
            row = pd.DataFrame([2.5 + 0.1 * np.arange(len(REGIONS)) + k], columns=REGIONS)
            row.to_csv(
                anat / f"{anatomical}_space-fsLR_atlas-{atlas}_stat-mean_desc-thickness_morph.tsv", sep="\t", index=False
            )
            series = pd.DataFrame(np.ones((3, len(REGIONS))), columns=REGIONS)
            series.to_csv(func / f"{stem}_{space}_atlas-{atlas}_stat-mean_timeseries.tsv", sep="\t", index=False)
        fd = pd.DataFrame({"framewise_displacement": [0.0, 0.1, 0.2 + k]})
        fd.to_csv(func / f"{stem}_motion.tsv", sep="\t", index=False, na_rep="n/a")
        outliers = pd.DataFrame({"framewise_displacement": [0, 0, 1]})
        outliers.to_csv(func / f"{stem}_outliers.tsv", sep="\t", index=False)
    return matrices


def write_giga_connectome(root: Path, old_names: bool = False) -> np.ndarray:
    """Write a folder of giga_connectome: float32, the header numbers the regions."""
    matrices = make_matrices().astype("float32")
    write_description(root, "giga_connectome", "0.5.0" if old_names else "0.6.0")
    (root / "meas-PearsonCorrelation_relmat.json").write_text('{"Measure": "Pearson correlation"}')
    for matrix, stem in zip(matrices, STEMS, strict=True):
        if old_names:
            name = "space-MNI152NLin2009cAsym_res-2_atlas-MIST_meas-PearsonCorrelation_desc-5Simple"
        else:
            name = "seg-MIST5_meas-PearsonCorrelation_desc-denoiseSimple"
        pd.DataFrame(matrix).to_csv(folder_of(root, stem) / f"{stem}_{name}_relmat.tsv", sep="\t", index=False)
    return matrices.astype(float)


def write_halfpipe(root: Path, extension: str = "tsv", features: tuple[str, ...] = ("corrMatrix1",)) -> np.ndarray:
    """Write a folder of HALFpipe: no heading, ten decimals, nan for a region that is not covered."""
    matrices = make_matrices()
    matrices[0, 1], matrices[0, :, 1] = np.nan, np.nan
    for matrix, stem in zip(matrices, STEMS, strict=True):
        folder = folder_of(root, stem) / "task-rest"
        folder.mkdir(exist_ok=True)
        for feature in features:
            name = f"{stem}_feature-{feature}_atlas-schaefer400"
            np.savetxt(folder / f"{name}_desc-correlation_matrix.{extension}", matrix, "%.10f", "\t")
            np.savetxt(folder / f"{name}_desc-covariance_matrix.{extension}", 3 * matrix, "%.10f", "\t")
            (folder / f"{name}_desc-correlation_matrix.json").write_text('{"MeanFD": 0.1}')
    return np.round(matrices, 10)


def write_conn(root: Path, empty: int | None = None) -> np.ndarray:
    """Write the first level of a CONN project: Fisher z, targets beyond the sources, nan on the diagonal."""
    from scipy.io import savemat

    values = np.arctanh(0.9 * make_matrices())
    folder = root / "conn_project01" / "results" / "firstlevel" / "SBC_01"
    folder.mkdir(parents=True)
    names = np.array([f"networks.{name} (1,2,3)" for name in REGIONS], dtype=object)
    targets = np.append(names, np.array(["QC_mean", "Grey Matter"], dtype=object))
    for k, matrix in enumerate(values):
        z = np.hstack([matrix, np.ones((len(REGIONS), 2))])
        np.fill_diagonal(z, np.nan)
        if k == empty:
            z[:] = np.nan
        content = {"Z": z, "names": names, "names2": targets, "DOF": 40.0, "xyz": np.zeros((1, 5))}
        savemat(folder / f"resultsROI_Subject{k + 1:03d}_Condition001.mat", content)
    return values


def write_dpabi(root: Path, order_key: bool = True) -> np.ndarray:
    """Write the results of DPARSF: r and Fisher z, .mat and .txt, and the numbers of the regions in the mask."""
    from scipy.io import savemat

    matrices = make_matrices()
    for matrix, (person, session, _) in zip(matrices, SESSIONS, strict=True):
        number = "ABC".index(session) + 1
        folder = root / (f"S{number}_Results" if number > 1 else "Results") / "ROISignals_FunImgARCWF"
        folder.mkdir(parents=True, exist_ok=True)
        with np.errstate(divide="ignore"):
            z = 0.5 * np.log((1 + matrix) / (1 - np.where(matrix > 1 - 1e-9, 1, matrix)))
        for name, values in (("ROICorrelation", matrix), ("ROICorrelation_FisherZ", z)):
            savemat(folder / f"{name}_Sub_{person}.mat", {name: values})
            np.savetxt(folder / f"{name}_Sub_{person}.txt", values, "%.16e", "\t")
        if order_key:
            lines = [f"{k + 1}\t{10 * k + 3}\tC:\\masks\\aal.nii" for k in range(len(REGIONS))]
            text = "\n".join(["Order\tLabel in Mask\tROI Definition", *lines]) + "\n"
            (folder / f"ROI_OrderKey_Sub_{person}.tsv").write_text(text)
    return np.arctanh(matrices - np.eye(len(REGIONS)))


def write_labels(path: Path, numbers: list[int] | None = None) -> Path:
    """Write a label table as in a BIDS atlas, with the background and in another order."""
    numbers = list(range(1, len(REGIONS) + 1)) if numbers is None else numbers
    table = pd.DataFrame({"index": [0, *numbers], "name": ["Background", *REGIONS], "hemisphere": "L"})
    table.iloc[::-1].to_csv(path, sep="\t", index=False)
    return path


def write_aparc(path: Path, hemisphere: str, labels: list[str], values: np.ndarray, **form) -> None:
    """Write a table of `aparcstats2table`, with the options of that program."""
    measure, parc = form.get("measure", "thickness"), form.get("parc", "aparc")
    delimiter, parcid_only = form.get("delimiter", "\t"), form.get("parcid_only", False)
    names = ["bankssts", "cuneus", "insula", "MeanThickness"]
    columns = names if parcid_only else [f"{hemisphere}_{name}_{measure}" for name in names]
    table = pd.DataFrame(values, index=labels, columns=columns)
    table["BrainSegVolNotVent"], table["eTIV"] = 1.1e6 + values[:, 0], 1.5e6 + np.arange(len(labels))
    table.index.name = f"{hemisphere}.{parc}.{measure}"
    if form.get("transpose", False):
        table = table.T.rename_axis(table.index.name)
    table.to_csv(path, sep=delimiter, float_format="%.4f")


def values_of(dataset) -> np.ndarray:
    """Return the features of a dataset, (scan, feature)."""
    return dataset.features.read(0, dataset.features.n_features)
