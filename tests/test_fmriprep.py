"""Time series of regions from small but real images, named as fMRIPrep names them."""

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import bayesharm
from bayesharm.cli.app import app
from bayesharm.errors import InputError

N_VOLUMES, AFFINE = 60, np.diag([3.0, 3, 3, 1])
SPACE = "_space-MNI152NLin2009cAsym_res-2"
REGIONS = {1: "visual", 3: "motor", 7: "default", 9: "limbic"}
SCANS = ["sub-01_ses-A_task-rest_run-1", "sub-01_ses-B_task-rest_run-1", "sub-02_ses-A_task-rest_run-1"]
MOTION = ["trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"]


def make_labels() -> np.ndarray:
    labels = np.zeros((8, 8, 8), np.int16)
    for k, number in enumerate(REGIONS):
        labels[2 * k : 2 * k + 2] = number
    return labels


def make_confounds(rng: np.random.Generator) -> pd.DataFrame:
    base = {name: rng.normal(size=N_VOLUMES) for name in [*MOTION, "csf", "white_matter", "global_signal"]}
    table = pd.DataFrame(base)
    for name in base:
        table[f"{name}_derivative1"] = table[name].diff()
        table[f"{name}_power2"] = table[name] ** 2
        table[f"{name}_derivative1_power2"] = table[f"{name}_derivative1"] ** 2
    table["cosine00"] = np.cos(np.pi * (np.arange(N_VOLUMES) + 0.5) / N_VOLUMES)
    table["non_steady_state_outlier00"] = (np.arange(N_VOLUMES) == 0).astype(float)
    table["framewise_displacement"] = 0.1
    table.loc[0, "framewise_displacement"] = np.nan
    table.loc[30:33, "framewise_displacement"] = 2.0
    table["std_dvars"] = 1.0
    for k in range(3):
        table[f"a_comp_cor_0{k}"] = rng.normal(size=N_VOLUMES)
    return table


def write_scan(root: Path, name: str, seed: int) -> Path:
    """A scan whose regions have the time series of `signals`, with noise in their voxels, and motion added to all."""
    rng = np.random.default_rng(seed)
    func = root.joinpath(*name.split("_")[:2], "func")
    func.mkdir(parents=True, exist_ok=True)
    confounds, signals = make_confounds(rng), rng.normal(size=(N_VOLUMES, 4)) @ rng.normal(size=(4, 4))
    values = np.repeat(signals.T, 2, axis=0)[:, None, None, :] + 0.01 * rng.normal(size=(8, 8, 8, N_VOLUMES))
    values += 5 * confounds["trans_x"].to_numpy() + 1000
    mask = np.ones((8, 8, 8), np.uint8)
    mask[0, 0, 0] = 0
    bold = func / f"{name}{SPACE}_desc-preproc_bold.nii.gz"
    nib.save(nib.Nifti1Image(values.astype("float32"), AFFINE), bold)
    nib.save(nib.Nifti1Image(mask, AFFINE), func / f"{name}{SPACE}_desc-brain_mask.nii.gz")
    confounds.to_csv(func / f"{name}_desc-confounds_timeseries.tsv", sep="\t", index=False, na_rep="n/a")
    components = {f"a_comp_cor_0{k}": {"Method": "aCompCor", "Mask": "combined", "Retained": True} for k in range(3)}
    (func / f"{name}_desc-confounds_timeseries.json").write_text(json.dumps(components))
    return bold


@pytest.fixture
def study(tmp_path):
    root = tmp_path / "fmriprep"
    for seed, name in enumerate(SCANS):
        write_scan(root, name, seed)
    nib.save(nib.Nifti1Image(make_labels(), AFFINE), tmp_path / "atlas.nii.gz")
    pd.DataFrame({"index": [*REGIONS, 11], "name": [*REGIONS.values(), "unused"]}).to_csv(
        tmp_path / "atlas_dseg.tsv", sep="\t", index=False
    )
    return root


def compute(root: Path, **options) -> bayesharm.Connectivity:
    atlas = root.parent / "atlas.nii.gz"
    return bayesharm.connectivity(
        root, **{"atlas_image": atlas, "labels": root.parent / "atlas_dseg.tsv", "min_volumes": 20} | options
    )


def refused(message: str, root: Path, **options) -> None:
    with pytest.raises(InputError, match=f"(?s){message}"):
        compute(root, **options)


def by_hand(bold: Path, confounds: pd.DataFrame | None) -> np.ndarray:
    """Correlations of the means over voxels, after regression on confounds (without the first, unsteady, volume)."""
    image = nib.load(bold).get_fdata()
    inside = nib.load(str(bold).replace("preproc_bold", "brain_mask")).get_fdata() > 0
    means = np.stack([image[(make_labels() == number) & inside].mean(0) for number in REGIONS], axis=1)
    if confounds is not None:
        means, design = means[1:], np.column_stack([np.ones(N_VOLUMES), confounds])[1:]
        means = means - design @ np.linalg.lstsq(design, means, rcond=None)[0]
    return np.corrcoef(means.T)[np.tril_indices(4, -1)]


def test_the_time_series_of_regions_are_correlated(study):
    found = compute(study, confounds="none")
    assert found.scan_id.tolist() == SCANS and found.regions.tolist() == list(REGIONS.values()) and found.notes == ()
    images = sorted(study.rglob("*_bold.nii.gz"))
    np.testing.assert_allclose(found.values, [by_hand(image, None) for image in images], atol=1e-5)
    assert found.scans["n_volumes"].tolist() == [N_VOLUMES] * 3 and "mean_fd" not in found.scans


def test_confounds_are_removed(study):
    found = compute(study, confounds="simple")
    images = sorted(study.rglob("*_bold.nii.gz"))
    expected = []
    for image in images:
        table = pd.read_csv(next(image.parent.glob("*_timeseries.tsv")), sep="\t")
        motion = [name + end for name in MOTION for end in ("", "_derivative1", "_power2", "_derivative1_power2")]
        expected.append(by_hand(image, table[[*motion, "csf", "white_matter", "cosine00"]].fillna(0)))
    np.testing.assert_allclose(found.values, expected, atol=1e-5)
    assert found.scans[["n_volumes", "n_dropped"]].values.tolist() == [[N_VOLUMES - 1, 1]] * 3
    np.testing.assert_allclose(found.scans["mean_fd"], (55 * 0.1 + 4 * 2) / 59)
    scrubbed = compute(study, confounds="scrubbing").scans
    assert (scrubbed["n_dropped"] >= 5).all() and (scrubbed["n_volumes"] + scrubbed["n_dropped"] == N_VOLUMES).all()
    assert compute(study, confounds="compcor").values.shape == (3, 6)


def test_a_region_outside_of_the_mask_is_missing_and_no_column_moves(study):
    whole = compute(study, confounds="none")
    mask = next(study.rglob("sub-01_ses-B*_mask.nii.gz"))
    values = nib.load(mask).get_fdata()
    values[2:4] = 0
    nib.save(nib.Nifti1Image(values.astype("uint8"), AFFINE), mask)
    found = compute(study, confounds="none")
    np.testing.assert_array_equal(found.values[[0, 2]], whole.values[[0, 2]])
    has_motor = np.array(["motor" in name for name in found.names])
    assert np.isnan(found.values[1][has_motor]).all()
    np.testing.assert_array_equal(found.values[1][~has_motor], whole.values[1][~has_motor])
    assert "motor (1 scan)" in found.notes[0]


def test_an_atlas_of_another_resolution_is_resampled(study):
    fine = np.kron(make_labels(), np.ones((2, 2, 2), np.int16))
    affine = np.diag([1.5, 1.5, 1.5, 1])
    affine[:3, 3] = -0.75
    fine[0, 0, 0] = 11  # one voxel, which vanishes
    nib.save(nib.Nifti1Image(fine, affine), study.parent / "fine.nii")
    found = compute(study, confounds="none", atlas_image=study.parent / "fine.nii")
    assert found.regions.tolist() == [*REGIONS.values(), "unused"] and "unused (3 scans)" in found.notes[0]
    kept = ~np.array(["unused" in name for name in found.names])
    np.testing.assert_allclose(found.values[:, kept], compute(study, confounds="none").values, atol=1e-6)


def test_several_spaces_are_refused_until_one_is_chosen(study):
    for path in study.rglob("sub-01_ses-A*_space-*"):
        path.with_name(path.name.replace("MNI152NLin2009cAsym", "T1w")).write_bytes(path.read_bytes())
    refused("several files.*the files differ in space: MNI152NLin2009cAsym, T1w", study)
    assert compute(study, match="*_space-MNI*", confounds="none").values.shape == (3, 6)


def test_incomplete_and_damaged_scans_are_refused(study):
    mask, table = next(study.rglob("*_mask.nii.gz")), next(study.rglob("*_timeseries.tsv"))
    for path, message in ((mask, "no brain mask.*1 of 3 scans.*brain_mask"), (table, "no confounds.*--confounds none")):
        content = path.read_bytes()
        path.unlink()
        refused(message, study)
        path.write_bytes(content)
    table.write_text("csf\n1\n")
    refused("confounds of a scan cannot be used.*strategy 'simple'", study)
    bold = next(study.rglob("sub-02*_bold.nii.gz"))
    content = gzip.decompress(bold.read_bytes())
    for damaged in (content[:5000], content[:100], b"text"):
        bold.write_bytes(gzip.compress(damaged))
        refused("sub-02.*(complete image|complete NIfTI)", study, confounds="none")
    bold.write_bytes(gzip.compress(content)[:20_000])
    refused("sub-02.*complete image", study, confounds="none")
    mask.write_bytes(b"")
    refused("a brain mask cannot be read", study, confounds="none")


def test_short_scans_are_refused(study):
    refused("too short.*3 of 3 scans.*60.*at least 61", study, confounds="none", min_volumes=61)


def test_an_impossible_atlas_is_refused(study):
    folder = study.parent
    (study / "empty").mkdir()
    with pytest.raises(InputError, match="(?s)There are no preprocessed BOLD images.*0 files"):
        bayesharm.connectivity(study / "empty", atlas_image=folder / "atlas.nii.gz")
    refused("no name for the labels '3', '7', '9'", study, labels=write_text(folder / "few.tsv", "index\tname\n1\ta\n"))
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((8, 8, 8)), AFFINE), folder / "map.nii.gz")
    refused("3D image of whole numbers", study, atlas_image=folder / "map.nii.gz")
    far = AFFINE.copy()
    far[:3, 3] = 500
    nib.save(nib.Nifti1Image(make_labels(), far), folder / "far.nii.gz")
    refused("(does not fit|cannot be extracted)", study, atlas_image=folder / "far.nii.gz", confounds="none")
    (folder / "damaged.nii.gz").write_bytes(b"no image")
    refused("the atlas cannot be read", study, atlas_image=folder / "damaged.nii.gz")
    refused("does not exist", study, atlas_image=folder / "none.nii.gz")
    refused("strategy of denoising", study, confounds="all")


def write_text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_the_command(study):
    folder = study.parent
    arguments = ["connectivity", str(study), "--atlas-image", str(folder / "atlas.nii.gz"), "--labels",
                 str(folder / "atlas_dseg.tsv"), "--min-volumes", "20", "--out", str(folder / "fc.npz")]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert np.load(folder / "fc.npz")["scan_id"].tolist() == SCANS
    assert pd.read_csv(folder / "fc_volumes.csv")["mean_fd"].notna().all()
