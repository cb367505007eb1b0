"""Connectivity from region time series, compared with nilearn, in all formats of files."""

import os
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import bayesharm
from bayesharm.cli.app import app
from bayesharm.data.timeseries import computation
from bayesharm.data.timeseries.estimation import clean
from bayesharm.data.timeseries.sources import name_scan
from bayesharm.errors import BayesharmError, InputError

REGIONS = ["V1", "M1", "PCC", "mPFC", "insula"]
T = 80  # volumes
LOWER = np.tril_indices(len(REGIONS), -1)


def make_series(seed: int = 0, n_volumes: int = T) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 100 + rng.normal(size=(n_volumes, len(REGIONS))) @ rng.normal(size=(len(REGIONS), len(REGIONS)))


def expected(series: np.ndarray) -> np.ndarray:
    return np.corrcoef(series.T)[LOWER]


def refused(message: str, *arguments, **options) -> InputError:
    with pytest.raises(InputError, match=f"(?s){message}") as caught:
        bayesharm.connectivity(*arguments, **options)
    assert caught.value.do
    return caught.value


def frame(seed: int = 0, n_volumes: int = T) -> pd.DataFrame:
    return pd.DataFrame(make_series(seed, n_volumes), columns=REGIONS)


@pytest.mark.parametrize("measure, kind", [("correlation", "correlation"), ("partial", "partial correlation")])
def test_values_are_those_of_nilearn_with_the_empirical_covariance(measure, kind):
    from nilearn.connectome import ConnectivityMeasure
    from sklearn.covariance import EmpiricalCovariance

    study = {f"s{k}": frame(k, 60 + k) for k in range(3)}
    oracle = ConnectivityMeasure(cov_estimator=EmpiricalCovariance(), kind=kind, standardize=False)
    matrices = oracle.fit_transform([series.to_numpy() for series in study.values()])
    found = bayesharm.connectivity(study, measure=measure)
    np.testing.assert_allclose(found.values, matrices[:, *LOWER], atol=1e-6)
    np.testing.assert_allclose(found.to_matrices()[:, *LOWER], matrices[:, *LOWER], atol=1e-6)
    assert np.isnan(found.to_matrices()[0].diagonal()).all()
    in_z = bayesharm.connectivity(study, measure=measure, fisher_z=True)
    np.testing.assert_allclose(in_z.values, np.arctanh(matrices[:, *LOWER]), atol=1e-5)


def test_the_default_of_nilearn_depends_on_the_number_of_volumes():
    """Why the empirical covariance: the shrunk one makes the same correlation weaker in a shorter scan."""
    from nilearn.connectome import ConnectivityMeasure

    rng = np.random.default_rng(0)
    root = np.linalg.cholesky(0.4 + 0.6 * np.eye(30))
    series = [rng.normal(size=(n, 30)) @ root.T for n in (60, 600)]
    lower = np.tril_indices(30, -1)
    shrunk = ConnectivityMeasure(kind="correlation", standardize=False).fit_transform(series)[:, *lower].mean(1)
    found = bayesharm.connectivity(dict(zip("ab", series, strict=True))).values.mean(1)
    assert shrunk[1] - shrunk[0] > 0.03 and abs(found[1] - found[0]) < 0.02


def write_npz(folder: Path, study: dict[str, pd.DataFrame]) -> Path:
    np.savez(folder / "all.npz", regions=REGIONS, **{name: series.to_numpy("float32") for name, series in study.items()})
    return folder / "all.npz"


def write_xcp_d(folder: Path, study: dict[str, pd.DataFrame]) -> Path:
    for name, series in study.items():
        func = folder / "xcp_d" / name.partition("_")[0] / "func"
        func.mkdir(parents=True, exist_ok=True)
        stem = f"{name}_space-MNI152NLin2009cAsym_atlas-4S156Parcels"
        series.to_csv(func / f"{stem}_stat-mean_timeseries.tsv", sep="\t", index=False, na_rep="n/a")
        series.corr().to_csv(func / f"{stem}_stat-pearsoncorrelation_relmat.tsv", sep="\t", index_label="Node")
        series.iloc[:, :2].to_csv(func / f"{name}_desc-confounds_timeseries.tsv", sep="\t", index=False)
    (folder / "xcp_d" / "participants.tsv").write_text("participant_id\nsub-01\n")
    (folder / "xcp_d" / "loop").symlink_to(folder / "xcp_d")
    return folder / "xcp_d"


def write_halfpipe(folder: Path, study: dict[str, pd.DataFrame]) -> Path:
    for name, series in study.items():
        path = folder / "halfpipe" / name.partition("_")[0] / "func" / f"{name}_feature-corr1_atlas-mine_timeseries.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savetxt(path, series.to_numpy(), delimiter="\t", fmt="%.10f")
    return folder / "halfpipe"


def write_giga(folder: Path, study: dict[str, pd.DataFrame]) -> Path:
    for name, series in study.items():
        path = folder / "giga" / f"{name}_seg-mine5_desc-denoiseSimple_timeseries.tsv"
        path.parent.mkdir(exist_ok=True)
        pd.DataFrame(series.to_numpy()).to_csv(path, sep="\t", index=False)
    return folder / "giga"


def write_npy(folder: Path, study: dict[str, pd.DataFrame]) -> Path:
    (folder / "npy").mkdir()
    for name, series in study.items():
        np.save(folder / "npy" / f"{name}.npy", series.to_numpy())
    return folder / "npy"


def write_cifti(folder: Path, study: dict[str, pd.DataFrame]) -> Path:
    (folder / "cifti").mkdir()
    vertices = [("CIFTI_STRUCTURE_CORTEX_LEFT", np.array([k])) for k in range(len(REGIONS))]
    parcels = nib.cifti2.ParcelsAxis(
        REGIONS, np.empty((len(REGIONS), 0, 3), int).tolist(), [dict([each]) for each in vertices],
        nvertices={"CIFTI_STRUCTURE_CORTEX_LEFT": 100},
    )  # fmt: skip
    for name, series in study.items():
        axes = nib.cifti2.SeriesAxis(0, 2, len(series)), parcels
        path = folder / "cifti" / f"{name}_space-fsLR_atlas-mine_den-91k_stat-mean_timeseries.ptseries.nii"
        nib.Cifti2Image(series.to_numpy("float32"), axes).to_filename(path)
    return folder / "cifti"


STUDY = {f"sub-{k:02d}_task-rest": frame(k) for k in range(3)}


@pytest.mark.parametrize("write", [write_npz, write_xcp_d, write_halfpipe, write_giga, write_npy, write_cifti])
def test_every_format_gives_the_same(tmp_path, write):
    folder = tmp_path / "Données é 日本"
    folder.mkdir()
    source = write(folder, STUDY)
    (folder / "labels.tsv").write_text("index\tname\n" + "".join(f"{k}\t{name}\n" for k, name in enumerate(REGIONS, 1)))
    labels = folder / "labels.tsv" if write in (write_halfpipe, write_giga, write_npy) else None
    found = bayesharm.connectivity(source, labels=labels)
    assert found.scan_id.tolist() == list(STUDY) and found.regions.tolist() == REGIONS and found.notes == ()
    assert found.names[:3].tolist() == ["edge_M1_V1", "edge_PCC_V1", "edge_PCC_M1"]
    np.testing.assert_allclose(found.values, [expected(series.to_numpy()) for series in STUDY.values()], atol=2e-6)
    assert found.scans["n_volumes"].tolist() == [T] * 3 and found.scans["n_dropped"].tolist() == [0] * 3
    if labels is not None and write is not write_npy:
        refused("do not name their regions.*--labels", source)


def test_1d_files_are_named_as_in_the_table_of_abide(tmp_path):
    abide = tmp_path / "Caltech_0051456_rois_cc200.1D"
    np.savetxt(
        abide, make_series(), header="\t".join(f"#{number}" for number in (1, 2, 5, 7, 9)), comments="", delimiter="\t"
    )
    afni = tmp_path / "s2.1D"
    afni.write_text("# made by 3dmaskave\n" + "\n".join(" ".join(map(str, row)) for row in make_series(1)))
    found = bayesharm.connectivity([abide])
    assert found.scan_id.tolist() == ["Caltech_0051456"] and found.regions.tolist() == ["1", "2", "5", "7", "9"]
    np.testing.assert_allclose(found.values[0], expected(make_series()), atol=1e-6)
    (tmp_path / "names.txt").write_text("1 V1\n2 M1\n5 PCC\n7 mPFC\n9 insula\n")
    assert bayesharm.connectivity(abide, labels=tmp_path / "names.txt").regions.tolist() == REGIONS
    numbered = bayesharm.connectivity(afni)
    assert numbered.regions.tolist() == list("01234") and "numbered by column" in numbered.notes[0]
    np.testing.assert_allclose(numbered.values[0], expected(make_series(1)), atol=1e-6)


@pytest.mark.parametrize(
    "name, scan_id",
    [
        ("sub-01_ses-A_task-rest_run-1_space-MNI_atlas-X_stat-mean_timeseries.tsv", "sub-01_ses-A_task-rest_run-1"),
        ("sub-01_task-rest_space-fsLR_den-91k_atlas-X_timeseries.ptseries.nii", "sub-01_task-rest"),
        ("Pitt_0050003_rois_aal.1D", "Pitt_0050003"),
        ("subject 7.v2.npy", "subject 7.v2"),
    ],
)
def test_a_scan_is_named_by_its_file(name, scan_id):
    assert name_scan(Path(name)) == scan_id


def test_regions_are_aligned_by_name():
    other = frame(1)[REGIONS[::-1]].drop(columns="PCC")
    found = bayesharm.connectivity({"a": frame(0), "b": other})
    np.testing.assert_allclose(found.values[0], expected(make_series(0)), atol=1e-6)
    whole = frame(1).corr().to_numpy(copy=True)
    whole[2] = whole[:, 2] = np.nan
    np.testing.assert_allclose(found.values[1], whole[LOWER], atol=1e-6)
    assert found.scans["n_missing_regions"].tolist() == [0, 1]
    assert found.notes == ("Regions without a signal in some scans, whose edges are missing there: PCC (1 scan).",)
    refused("other regions.*'S1'.*one atlas", {"a": frame(0), "b": frame(1).rename(columns={"V1": "S1"})})
    refused("other regions.*2 regions", {"a": frame(0), "b": frame(1)[REGIONS[:2]]})
    refused("'V1'.* more than once", {"a": frame(0).rename(columns={"M1": "V1"})})
    refused("4 regions without names.*5 regions", {"a": make_series(0), "b": make_series(1)[:, :4]})
    wider = bayesharm.connectivity({"b": other, "a": frame(0)}, labels=REGIONS)
    np.testing.assert_array_equal(wider.values[::-1], found.values)


@pytest.mark.parametrize("value", [0.0, 1e6, np.nan])
def test_a_region_without_a_signal_has_no_edges(value):
    series = frame(0)
    series["M1"] = value
    found = bayesharm.connectivity({"a": series, "b": frame(1)})
    has_m1 = np.array(["M1" in name for name in found.names])
    assert np.isnan(found.values[0][has_m1]).all() and np.isfinite(found.values[0][~has_m1]).all()
    np.testing.assert_allclose(found.values[0][~has_m1], expected(make_series(0))[~has_m1], atol=1e-6)
    assert "M1 (1 scan)" in found.notes[0] and found.scans["n_missing_regions"].tolist() == [1, 0]


def test_volumes_without_values_are_dropped_and_counted():
    series = frame(0)
    series.iloc[3:10] = np.nan  # censored
    series.iloc[20, 1] = np.inf
    found = bayesharm.connectivity({"a": series, "b": frame(1)})
    kept = np.delete(make_series(0), [*range(3, 10), 20], axis=0)
    np.testing.assert_allclose(found.values[0], expected(kept), atol=1e-6)
    assert found.scans[["n_volumes", "n_dropped"]].values.tolist() == [[T - 8, 8], [T, 0]]
    assert found.notes == ("8 volumes were censored or had missing values, and were left out (1 scans).",)
    series["V1"] = np.where(np.arange(T) < 60, np.nan, series["V1"])  # a region, not 60 volumes
    assert bayesharm.connectivity({"a": series}).scans.loc[0, ["n_volumes", "n_missing_regions"]].tolist() == [T - 8, 1]


def test_all_scans_that_are_too_short_are_named_together():
    study = {"long": frame(0), "short": frame(1, 30), "censored": frame(2)}
    study["censored"].iloc[5:45] = np.nan
    error = refused("too short", study)
    assert error.got == "2 of 3 scans: short (30), censored (40 of 80) volumes" and "at least 50" in error.expected
    assert bayesharm.connectivity(study, min_volumes=30).values.shape == (3, 10)
    refused("4 or more", study, min_volumes=2)
    study["flat"] = 0 * frame(3)
    study["none"] = np.nan * frame(3)
    assert "none (0 of 80)" in str(refused("2 problems.*no region with a signal.*1 of 5 scans: 'flat'.*too short", study))


def test_partial_correlations_are_refused_where_they_do_not_exist():
    few = {"a": frame(0), "b": frame(1, 5)}
    error = refused("more volumes than regions", few, measure="partial", min_volumes=4)
    assert error.got == "1 of 2 scans: b (5) volumes for 5 regions"
    dependent = frame(1)
    dependent["V1"] = dependent["M1"] + dependent["PCC"]
    refused("determine each other.*'b'", {"a": frame(0), "b": dependent}, measure="partial")
    missing = frame(1).assign(V1=0.0)
    assert "given the other regions" in bayesharm.connectivity({"a": missing}, measure="partial").notes[0]


def test_identical_regions_are_reported_and_have_no_fisher_z():
    series = frame(0)
    series["V1"] = 3 - 2 * series["M1"]
    found = bayesharm.connectivity({"a": series})
    assert found.values[0, 0] == -1 and "M1 and V1 in 1 scans" in found.notes[0]
    refused("same time series.*M1 and V1", {"a": series}, fisher_z=True)


@pytest.mark.parametrize("suffix", [".npz", ".zarr", ".parquet", ".csv", ".tsv", ".npy"])
def test_what_is_written_is_a_dataset(tmp_path, suffix):
    found = bayesharm.connectivity(STUDY, out=tmp_path / f"fc{suffix}")
    scans = pd.DataFrame({"scan_id": list(STUDY)[::-1], "participant_id": list("abc"), "scanner": list("XYX")})
    if suffix == ".npy":
        scans = scans[::-1]
    dataset = bayesharm.load_dataset(scans, tmp_path / f"fc{suffix}", transform="fisher-z")
    order = [list(STUDY).index(name) for name in dataset.scans.scan_id]
    np.testing.assert_allclose(dataset.features.read(0, 10), np.arctanh(found.values[order].astype(float)), rtol=1e-6)
    if suffix != ".npy":
        assert dataset.features.names.tolist() == found.names.tolist()
        in_memory = bayesharm.load_dataset(scans, found.to_frame(), transform="fisher-z")
        np.testing.assert_allclose(in_memory.features.read(0, 10), dataset.features.read(0, 10), rtol=1e-6)
    edges = pd.read_csv(tmp_path / "fc_edges.csv")
    assert edges.columns.tolist() == ["feature", "node_a", "node_b"] and edges.feature.tolist() == found.names.tolist()
    assert edges.loc[1, ["node_a", "node_b"]].tolist() == ["PCC", "V1"]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "fc_volumes.csv"), found.scans)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([f"fc{suffix}", "fc_edges.csv", "fc_volumes.csv"])


def test_large_results_are_kept_in_a_file(tmp_path, monkeypatch):
    expected_values = bayesharm.connectivity(STUDY).values
    monkeypatch.setattr(computation, "IN_MEMORY", 0)
    found = bayesharm.connectivity(STUDY, out=tmp_path / "fc.npz")
    assert isinstance(found.values, np.memmap)
    np.testing.assert_array_equal(found.values, expected_values)
    np.testing.assert_array_equal(np.load(tmp_path / "fc.npz")["features"], expected_values)


def test_the_command(tmp_path):
    source = write_xcp_d(tmp_path, STUDY)
    out = tmp_path / "fc.parquet"
    result = CliRunner().invoke(app, ["connectivity", str(source), "--out", str(out), "--min-volumes", "60"])
    assert result.exit_code == 0, result.output
    assert "3 scans × 10 edges of 5 regions" in result.stdout and "connectivity 3 of 3" in result.stderr
    np.testing.assert_allclose(pd.read_parquet(out).iloc[:, 1:], bayesharm.connectivity(STUDY).values, atol=1e-6)
    before = out.read_bytes()
    for arguments in (["--min-volumes", "100"], ["--match", "*.csv"], ["--measure", "partial", "--min-volumes", "81"]):
        failed = CliRunner().invoke(app, ["connectivity", str(source), "--out", str(out), *arguments])
        assert failed.exit_code == 2 and "do this" in failed.stderr and out.read_bytes() == before
    assert CliRunner().invoke(app, ["connectivity", str(source), "--out", str(source / "fc.npy")]).exit_code == 0
    assert len(bayesharm.connectivity(source, out=source / "fc.npy").scan_id) == 3  # the output is no input
    for wrong in (tmp_path / "no" / "fc.npz", tmp_path / "fc.mat"):
        assert CliRunner().invoke(app, ["connectivity", str(source), "--out", str(wrong)]).exit_code == 2
    archive = write_npz(tmp_path, STUDY)
    assert "would overwrite" in CliRunner().invoke(app, ["connectivity", str(archive), "--out", str(archive)]).stderr


def test_several_files_of_a_scan_are_refused_and_chosen_by_name(tmp_path):
    source = write_xcp_d(tmp_path, STUDY)
    first = next(source.rglob("*sub-00*_timeseries.tsv"))
    other = first.with_name(first.name.replace("4S156Parcels", "Tian"))
    other.write_bytes(first.read_bytes())
    error = refused("1 scans, such as sub-00_task-rest", source)
    assert "the files differ in atlas: 4S156Parcels, Tian" in error.do
    assert len(bayesharm.connectivity(source, match="*_atlas-4S*_timeseries.tsv").scan_id) == 3
    files = [first, *source.rglob("*sub-01*_timeseries.tsv")]
    assert bayesharm.connectivity([file for file in files if "stat-mean" in file.name]).values.shape == (2, 10)


DAMAGED = {
    "a.tsv": b"V1\tM1\n1\t2\n3\n",
    "text.tsv": b"V1\tM1\n1\ttwo\n" + b"1\t2\n" * 60,
    "empty.tsv": b"",
    "header.tsv": b"V1\tM1\n",
    "binary.tsv": bytes(range(256)),
    "long.tsv": b"1.5\t" * 30_000_000,
    "cut.npy": b"\x93NUMPY\x01\x00v\x00{'descr'",
    "null.npy": b"\x93NUMPY\x01\x00\x0a\x00{\0}       \n",  # found by the test of arbitrary files
    "objects.npy": None,
    "cube.npy": None,
    "a.1D": b"#1 #2\n1 2\n3\n",
    "words.1D": b"#1 #2\nx y\n",
    "none.1D": b"# nothing\n",
    "a.ptseries.nii": b"not an image",
    "a.dtseries.nii": b"",
    "a.mat": b"MATLAB 7.3 MAT-file",
    "cut.npz": b"PK\x03\x04 cut",
    "objects.npz": None,
    "features.npz": None,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_refused_and_nothing_is_written(tmp_path, name):
    path = tmp_path / name
    match name:
        case "objects.npy":
            np.save(path, np.array([{}, {}]), allow_pickle=True)
        case "cube.npy":
            np.save(path, np.zeros((3, 4, 5)))
        case "objects.npz":
            np.savez(path, s1=np.array([{}, None]), allow_pickle=True)
        case "features.npz":
            np.savez(path, features=np.zeros((3, 4)))
        case _:
            path.write_bytes(DAMAGED[name])
    assert re.search(re.escape(name), refused("", path, out=tmp_path / "out.npz").got)
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_all_damaged_files_are_named_together(tmp_path):
    source = write_npy(tmp_path, STUDY)
    for path in sorted(source.iterdir())[1:]:
        path.write_bytes(path.read_bytes()[:-100])
    error = refused("2 problems", source)
    assert "sub-01" in str(error) and "sub-02" in str(error)
    refused("no time series.*0 files", tmp_path / "cifti" if (tmp_path / "cifti").mkdir() else tmp_path / "cifti")
    refused("does not exist", tmp_path / "nowhere.npz")
    os.mkfifo(tmp_path / "pipe.npy")
    refused("pipe.npy: a folder, a pipe or a device", tmp_path / "pipe.npy")
    refused("an empty source", {})


@settings(max_examples=150)
@given(data=st.data(), ending=st.sampled_from([".tsv", ".csv", ".txt", ".1D", ".npy", ".npz", ".ptseries.nii"]))
def test_nothing_but_our_errors_comes_out_of_a_file(tmp_path_factory, data, ending):
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    path = folder / f"scan{ending}"
    cells = st.sampled_from(["1", "2.5", "-3e300", "n/a", "nan", "inf", "", "V1", "#7", "é", '"', "1,5", "0"])
    rows = st.lists(st.lists(cells, min_size=1, max_size=4), min_size=1, max_size=9)
    kind = data.draw(st.sampled_from(["table", "bytes", "array"]))
    if kind == "bytes":
        path.write_bytes(data.draw(st.binary(max_size=200)))
    elif kind == "table":
        separator = data.draw(st.sampled_from(["\t", ",", " ", ";"]))
        text = data.draw(st.sampled_from(["\n", "\r\n", "\r"])).join(separator.join(row) for row in data.draw(rows))
        path.write_bytes(text.encode(data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]))))
    else:
        array = np.array(data.draw(st.lists(st.lists(st.floats(), min_size=3, max_size=3), min_size=1, max_size=8)))
        with path.open("wb") as file:
            np.savez(file, scan=array) if ending == ".npz" else np.save(file, array)
        content = bytearray(path.read_bytes())
        for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
            content[place] = data.draw(st.integers(0, 255))
        path.write_bytes(bytes(content))
    try:
        found = bayesharm.connectivity(path, min_volumes=4, fisher_z=data.draw(st.booleans()))
    except BayesharmError:
        return
    assert found.values.shape == (1, len(found.names)) and not np.isinf(found.values).any()


VOLUME = st.lists(st.floats() | st.sampled_from([0.0, np.nan, np.inf]), min_size=3, max_size=3)


@given(st.lists(VOLUME, min_size=1, max_size=12))
def test_clean_series_have_no_holes_whatever_comes_in(rows):
    values = np.array(rows)
    series = clean(values)
    assert series.n_volumes + series.n_dropped == len(values) and series.values.shape[1] == series.present.sum()
    assert np.isfinite(series.values).all()
    np.testing.assert_allclose((series.values**2).sum(0), 1)
    np.testing.assert_allclose(series.values.sum(0), 0, atol=1e-9)


def test_tables_of_the_user_are_not_replaced(tmp_path):
    (tmp_path / "fc_volumes.csv").write_text("scan_id,site\n1,A\n")
    refused("did not write.*fc_volumes.csv", STUDY, out=tmp_path / "fc.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["fc_volumes.csv"]
    bayesharm.connectivity(STUDY, out=tmp_path / "other.npz")
    bayesharm.connectivity(STUDY, out=tmp_path / "other.npz")  # our own
