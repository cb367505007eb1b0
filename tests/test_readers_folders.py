"""Folders of XCP-D, giga_connectome, HALFpipe, CONN and DPABI: right values, names and scans, or a message that helps."""

import os
import shutil

import numpy as np
import pandas as pd
import pytest
from derivatives import (
    ATLAS,
    REGIONS,
    SESSIONS,
    STEMS,
    edges,
    folder_of,
    lower,
    make_matrices,
    make_scans,
    values_of,
    write_conn,
    write_dpabi,
    write_giga_connectome,
    write_halfpipe,
    write_labels,
    write_relmat,
    write_xcp_d,
)

from bayesharm.data.dataset import Dataset, load_dataset
from bayesharm.errors import InputError


def load(root, scans=None, **options) -> Dataset:
    return load_dataset(make_scans() if scans is None else scans, root, check="apply", **options)


def refused(message: str, root, scans=None, **options) -> InputError:
    """The call is refused, and the error has all its parts."""
    with pytest.raises(InputError, match=f"(?s){message}") as caught:
        load(root, scans, **options)
    assert caught.value.got and caught.value.expected and caught.value.do
    return caught.value


def relmat(root, scan: int, atlas: str = ATLAS):
    """Return the file of the correlations of a scan."""
    (path,) = folder_of(root, STEMS[scan]).glob(f"*atlas-{atlas}*relmat.tsv")
    return path


def change(path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_xcp_d(tmp_path):
    matrices = write_xcp_d(tmp_path)
    dataset = load_dataset(make_scans(), tmp_path)
    assert dataset.scans["scan_id"].tolist() == STEMS
    assert dataset.features.names.tolist() == edges()
    np.testing.assert_array_equal(values_of(dataset), lower(matrices))
    assert dataset.scans["mean_framewise_displacement"].tolist() == pytest.approx([0.1 + k / 3 for k in range(6)])
    assert dataset.scans["volumes_kept"].tolist() == [2.0] * 6
    reading = dataset.reading
    assert (reading["tool"], reading["version"], reading["atlas"]) == ("XCP-D", "0.10.6", ATLAS)
    assert reading["measure"] == "pearsoncorrelation" and reading["matched"] == "by scan_id"
    assert len(reading["files"]) == 6 and reading["dropped"] == {}
    assert "6 files of XCP-D 0.10.6 were read" in reading["notes"][0]


def test_xcp_d_with_seg_in_place_of_atlas(tmp_path):
    matrices = write_xcp_d(tmp_path)
    for path in sorted(tmp_path.rglob("*atlas-*")):
        path.rename(path.with_name(path.name.replace("atlas-", "seg-")))
    dataset = load_dataset(make_scans(), tmp_path, atlas=ATLAS)
    np.testing.assert_array_equal(values_of(dataset), lower(matrices))
    assert dataset.reading["tool"] == "XCP-D"


@pytest.mark.parametrize(
    "extra, name",
    [("den-91k_", "stat-pearsoncorrelation_relmat"), ("", "measure-pearsoncorrelation_conmat")],
)
def test_names_of_xcp_d_on_surfaces_and_of_its_early_versions(tmp_path, extra, name):
    matrices = make_matrices()
    for stem, matrix in zip(STEMS, matrices, strict=True):
        write_relmat(folder_of(tmp_path, stem) / f"{stem}_space-fsLR_atlas-Gordon_{extra}{name}.tsv", matrix)
    np.testing.assert_array_equal(values_of(load(tmp_path)), lower(matrices))


def test_other_measures_of_xcp_d(tmp_path):
    matrices = write_xcp_d(tmp_path)
    reho = load(tmp_path, measure="reho")
    assert reho.features.names.tolist() == REGIONS
    np.testing.assert_allclose(values_of(reho), matrices[:, 0] + np.arange(6)[:, None])
    thickness = load(tmp_path, measure="thickness")  # of the session: its file has no task and no run
    np.testing.assert_allclose(values_of(thickness)[2], 4.5 + 0.1 * np.arange(5))
    assert "mean_framewise_displacement" not in thickness.scans
    refused("chosen measure.*'pearsoncorrelation', 'reho', 'thickness'", tmp_path, measure="alff")


def test_scans_are_found_by_the_parts_of_their_identifiers(tmp_path):
    matrices = write_xcp_d(tmp_path)
    scans = make_scans().iloc[::-1]
    scans["scan_id"] = scans["scan_id"].str.replace("_task-rest_run-1", "_run-01_task-rest")
    dataset = load(tmp_path, scans)
    np.testing.assert_array_equal(values_of(dataset), lower(matrices)[::-1])
    assert dataset.reading["matched"] == "by the parts of scan_id (sub-…_ses-…)"
    scans["scan_id"] = scans["scan_id"].str.partition("_run")[0]  # sub-01_ses-A
    np.testing.assert_array_equal(values_of(load(tmp_path, scans)), lower(matrices)[::-1])


def test_scans_are_found_by_columns(tmp_path):
    matrices = write_xcp_d(tmp_path)
    scans = make_scans().drop(columns="scan_id").iloc[::-1]
    scans["session"] = "ses-" + scans["session"]
    dataset = load(tmp_path, scans)
    np.testing.assert_array_equal(values_of(dataset), lower(matrices)[::-1])
    assert dataset.reading["matched"] == "by the columns participant_id, session"
    own_ids = make_scans().assign(scan_id=[f"scan{k}" for k in range(6)])
    np.testing.assert_array_equal(values_of(load(tmp_path, own_ids)), lower(matrices))


def test_columns_do_not_overrule_the_parts_of_an_identifier(tmp_path):
    write_xcp_d(tmp_path)
    scans = make_scans()
    scans["scan_id"] = scans["scan_id"].str.replace("run-1", "run-2")
    refused("No scan has its files", tmp_path, scans)


def test_numbers_of_sessions_and_runs_may_lack_zeros(tmp_path):
    matrix = make_matrices()[0]
    for session in ("01", "02"):
        stem = f"sub-7_ses-{session}_task-rest_run-02"
        write_relmat(folder_of(tmp_path, stem) / f"{stem}_atlas-A_stat-pearsoncorrelation_relmat.tsv", matrix)
    scans = pd.DataFrame({"participant_id": ["7", "7"], "session": [1.0, 2.0], "run": [2, 2], "scanner": ["X", "Y"]})
    assert load(tmp_path, scans).features.n_scans == 2


def test_giga_connectome(tmp_path):
    labels = write_labels(tmp_path / "atlas-MIST_dseg.tsv")
    for old_names in (False, True):
        root = tmp_path / f"giga{old_names}"
        matrices = write_giga_connectome(root, old_names)
        dataset = load(root, labels=labels)
        assert dataset.features.names.tolist() == edges()
        np.testing.assert_allclose(values_of(dataset), lower(matrices), atol=1e-7)
        refused("do not name their regions.*--labels", root)


def test_halfpipe(tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(REGIONS))
    for extension in ("tsv", "txt"):
        root = tmp_path / extension
        matrices = write_halfpipe(root, extension)
        dataset = load(root, labels=labels)
        np.testing.assert_array_equal(values_of(dataset), lower(matrices))
        assert dataset.reading["missing"] == {"missing in the file": 4, "of regions without signal": 0}
        np.testing.assert_allclose(
            values_of(load(root, labels=labels, measure="covariance")), 3 * lower(matrices), atol=1e-9
        )


def test_parts_of_file_names_choose_between_files_of_a_scan(tmp_path):
    labels = write_labels(tmp_path / "dseg.tsv")
    write_halfpipe(tmp_path / "half", features=("aroma", "simple"))
    refused(
        "6 of 6 scans have more than one file.*--entity feature=aroma or --entity feature=simple",
        tmp_path / "half",
        labels=labels,
    )
    assert load(tmp_path / "half", labels=labels, entities={"feature": "simple"}).features.n_scans == 6
    refused("'aroma', 'simple'", tmp_path / "half", labels=labels, entities={"feature": "other"})
    matrices = write_xcp_d(tmp_path / "xcp")
    for scan in range(6):
        path = relmat(tmp_path / "xcp", scan)
        shutil.copy(path, path.with_name(path.name.replace("_relmat", "_desc-100volumes_relmat")))
    refused("--entity desc=100volumes or --entity desc=none", tmp_path / "xcp")
    np.testing.assert_array_equal(values_of(load(tmp_path / "xcp", entities={"desc": "none"})), lower(matrices))


def test_conn(tmp_path):
    values = write_conn(tmp_path)
    scans = make_scans().assign(scan_id=[f"Subject{k + 1:03d}" for k in range(6)])
    dataset = load(tmp_path, scans)
    np.testing.assert_array_equal(values_of(dataset), lower(values))
    assert dataset.features.names[0] == "edge_networks.LH_Vis_2 (1,2,3)_networks.LH_Vis_1 (1,2,3)"
    scans["scan_id"] += "_Condition001"
    assert load(tmp_path, scans).reading["matched"] == "by scan_id"
    refused("No scan has its files.*Subject001", tmp_path)


def test_conn_condition_without_data(tmp_path):
    values = write_conn(tmp_path, empty=2)
    scans = make_scans().assign(scan_id=[f"Subject{k + 1:03d}" for k in range(6)])
    refused("1 of 6 scans have no values at all.*'Subject003'", tmp_path, scans)
    dataset = load(tmp_path, scans, missing_files="drop")
    np.testing.assert_array_equal(values_of(dataset), lower(values)[[0, 1, 3, 4, 5]])
    assert dataset.reading["dropped"] == {"Subject003": "no values at all"}


def test_dpabi(tmp_path):
    z = write_dpabi(tmp_path / "study")
    scans = make_scans().drop(columns="scan_id").replace({"session": dict(zip("ABC", "123", strict=True))})
    scans["participant_id"] = scans["participant_id"].str.replace("sub-", "Sub_")
    dataset = load(tmp_path / "study", scans)
    np.testing.assert_allclose(values_of(dataset), lower(z), atol=1e-9)
    assert (dataset.reading["measure"], dataset.reading["unit"]) == ("fisher-z", "z") and dataset.features.names[
        0
    ] == "edge_13_3"
    labels = write_labels(tmp_path / "aal.tsv", [3, 13, 23, 33, 43])
    named = load(tmp_path / "study", scans, labels=labels, measure="correlation")
    assert named.features.names.tolist() == edges()
    np.testing.assert_allclose(values_of(named), np.tanh(lower(z)), atol=1e-9)
    for path in (tmp_path / "study").rglob("*.mat"):
        path.unlink()
    np.testing.assert_allclose(values_of(load(tmp_path / "study", scans)), lower(z), atol=1e-9)  # from .txt
    refused("lacks some regions.*'13', '23'", tmp_path / "study", scans, labels=write_labels(tmp_path / "other.tsv"))


def test_a_region_that_dpabi_left_out_is_found_by_the_order_key(tmp_path):
    write_dpabi(tmp_path)
    scans = make_scans().assign(participant_id=[f"Sub_{person}" for person, _, _ in SESSIONS], session=[*"123112"])
    scans["session"] = [str("ABC".index(session) + 1) for _, session, _ in SESSIONS]
    path = next(tmp_path.rglob("ROI_OrderKey_Sub_04.tsv"))
    change(path, "\t13\t", "\t14\t")
    refused("different regions.*lacks '13'; has '14'", tmp_path, scans)


def test_two_atlases_and_none_chosen(tmp_path):
    matrices = write_xcp_d(tmp_path, atlases=("Gordon", "Tian"))
    refused("several atlases.*'Gordon', 'Tian'.*--atlas Gordon or --atlas Tian", tmp_path)
    np.testing.assert_array_equal(values_of(load(tmp_path, atlas="Tian")), lower(matrices))
    refused("chosen atlas.*Glasser.*'Gordon', 'Tian'", tmp_path, atlas="Glasser")


def test_missing_values_of_three_kinds(tmp_path):
    matrices = make_matrices()
    expected = matrices.copy()
    matrices[0, 1], matrices[0, :, 1] = np.nan, np.nan  # n/a: not covered
    matrices[2, 3], matrices[2, :, 3] = 0, 0  # no signal
    matrices[2, 3, 3] = 1
    write_xcp_d(tmp_path, matrices)
    path = relmat(tmp_path, 0)
    path.write_text(path.read_text().replace("n/a", "nan", 3).replace("n/a", "", 2))
    for scan, region in ((0, 1), (2, 3)):
        expected[scan, region], expected[scan, :, region] = np.nan, np.nan
    dataset = load(tmp_path)
    np.testing.assert_array_equal(values_of(dataset), lower(expected))
    assert dataset.reading["missing"] == {"missing in the file": 4, "of regions without signal": 4}
    assert "8 of 60 values are missing: 4 missing in the file, 4 of regions without signal" in dataset.reading["notes"][1]
    assert load_dataset(make_scans(), tmp_path).n_missing == 8  # a fit models them


def test_regions_in_another_order_are_aligned_by_name(tmp_path):
    matrices = write_xcp_d(tmp_path)
    order = [3, 0, 4, 1, 2]
    for scan in (0, 4):
        write_relmat(relmat(tmp_path, scan), matrices[scan][np.ix_(order, order)], [REGIONS[k] for k in order])
    dataset = load(tmp_path)
    assert dataset.features.names.tolist() == edges([REGIONS[k] for k in order])
    np.testing.assert_array_equal(values_of(dataset), lower(matrices[:, order][:, :, order]))
    assert "The regions of 4 files were in another order" in dataset.reading["notes"][1]


def test_rows_in_another_order_than_columns(tmp_path):
    matrices = write_xcp_d(tmp_path)
    path = relmat(tmp_path, 1)
    head, *rows = path.read_text().splitlines()
    path.write_text("\n".join([head, *rows[::-1]]) + "\n")
    np.testing.assert_array_equal(values_of(load(tmp_path)), lower(matrices))
    path.write_text("\n".join([head, rows[0].replace("LH_Vis_1", "other", 1), *rows[1:]]))
    refused("other regions in its rows.*'LH_Vis_1', 'other'", tmp_path)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("RH_Default_PFC", "RH_Limbic", "other regions in its rows"),
        ("\n", "\nLH_Vis_0\t1\t1\t1\t1\t1\n", "other regions in its rows|not square"),
    ],
)
def test_other_regions(tmp_path, old, new, message):
    write_xcp_d(tmp_path)
    change(relmat(tmp_path, 3), old, new)
    refused(message, tmp_path)


def test_files_of_another_atlas_under_the_same_name(tmp_path):
    matrices = write_xcp_d(tmp_path)
    write_relmat(relmat(tmp_path, 3), matrices[3], [*REGIONS[:4], "Tian_1"])
    refused("different regions.*lacks 'Cerebellar_Region1'; has 'Tian_1'", tmp_path)
    write_relmat(relmat(tmp_path, 3), matrices[3][:4, :4], REGIONS[:4])
    refused("different regions.*lacks 'Cerebellar_Region1'; has no others", tmp_path)
    write_relmat(relmat(tmp_path, 3), matrices[3], [*REGIONS[:4], REGIONS[0]])
    refused("regions", tmp_path)


def test_matrices_without_names_of_different_size(tmp_path):
    write_halfpipe(tmp_path)
    path = next(tmp_path.rglob("sub-04*correlation_matrix.tsv"))
    labels = tmp_path / "labels.tsv"
    write_labels(labels)
    np.savetxt(path, np.eye(4), delimiter="\t")
    refused("differ in size.*4 regions in .*sub-04.*5 in the others", tmp_path, labels=labels)
    labels.write_text("\n".join(REGIONS[:3]))
    refused("label file does not fit.*3 names.*5 regions", tmp_path, labels=labels)


@pytest.mark.parametrize(
    "cell, value, message",
    [
        ((1, 0), 0.123, "not symmetric.*in one direction and.*between 'LH_Vis_1' and 'LH_Vis_2'.*symmetric to 1e-06"),
        ((1, 0), np.nan, "not symmetric"),
        ("both", 1.2, "impossible values.*1.2 between 'LH_Vis_1' and 'LH_Vis_2', and 0 more.*between -1 and 1"),
        ("both", np.inf, "impossible values"),
        ((2, 2), 0.8, "wrong diagonal.*0.8 in region 'RH_Default_PFC'.*1 \\(or 0 or n/a\\)"),
    ],
)
def test_impossible_matrices(tmp_path, cell, value, message):
    matrices = make_matrices()
    for at in ((0, 1), (1, 0)) if cell == "both" else (cell,):
        matrices[2][at] = value
    write_xcp_d(tmp_path, matrices)
    assert "sub-01_ses-C" in refused(message, tmp_path).got


def test_rounding_is_not_an_asymmetry_and_the_diagonal_may_be_0_or_missing(tmp_path):
    matrices = make_matrices()
    matrices[0, 0, 1] += 5e-7
    matrices[1, range(5), range(5)] = 0
    matrices[2, range(5), range(5)] = np.nan
    write_xcp_d(tmp_path, matrices)
    np.testing.assert_array_equal(values_of(load(tmp_path)), lower(matrices))


def test_truncated_and_damaged_files(tmp_path):
    write_xcp_d(tmp_path)
    path = relmat(tmp_path, 5)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused("damaged.*cells in line", tmp_path)
    path.write_bytes(whole.rsplit(b"\n", 2)[0] + b"\n")
    refused("rows", tmp_path)  # cut between two lines
    path.write_bytes(b"")
    refused("damaged.*no numbers", tmp_path)
    path.write_bytes(b"\x00\x01\x02" * 50)
    refused("not text", tmp_path)
    path.write_bytes(whole.replace(b"\t1.0\t", b"\tone\t", 1))
    refused("damaged.*one", tmp_path)
    path.unlink()
    path.mkdir()
    refused("1 of 6 scans without files", tmp_path)


def test_several_damaged_files_are_reported_together(tmp_path):
    write_xcp_d(tmp_path)
    for scan in (1, 2, 4):
        relmat(tmp_path, scan).write_text("Node\ta\n")
    error = refused("3 of 6 files cannot be used", tmp_path)
    assert all(STEMS[scan] in str(error) for scan in (1, 2, 4))


def test_scans_and_files_that_do_not_correspond(tmp_path):
    matrices = write_xcp_d(tmp_path)
    fewer = make_scans().iloc[:4]
    refused("2 of 6 files without a scan \\('sub-03.*--missing-files drop", tmp_path, fewer)
    relmat(tmp_path, 1).unlink()
    refused("1 of 6 scans without files \\('sub-01_ses-B.*0 of 5 files without a scan \\(none\\)", tmp_path)
    dataset = load(tmp_path, fewer, missing_files="drop")
    np.testing.assert_array_equal(values_of(dataset), lower(matrices)[[0, 2, 3]])
    assert dataset.scans["scan_id"].tolist() == [STEMS[k] for k in (0, 2, 3)]
    assert dataset.reading["dropped"][STEMS[1]] == "scan without files" and len(dataset.reading["dropped"]) == 3
    other = make_scans().assign(scan_id=[f"x{k}" for k in range(6)], participant_id=[f"p{k}" for k in range(6)])
    refused("No scan has its files.*the first scan is 'x0' of 'p0'", tmp_path, other, missing_files="drop")
    refused("more than once", tmp_path, pd.concat([make_scans(), make_scans().iloc[:1]]))


def test_the_same_session_twice(tmp_path):
    write_xcp_d(tmp_path)
    path = relmat(tmp_path, 0)
    shutil.copy(path, path.with_name(path.name.replace("run-1", "run-2")))
    scans = make_scans().drop(columns="scan_id")
    refused("more than one file.*column to the scans table for: run", tmp_path, scans)
    without_session = scans.drop(columns="session").drop_duplicates("participant_id")
    refused("for: ses", tmp_path, without_session, missing_files="drop")
    refused("One file belongs to several scans", tmp_path, scans.assign(session=["A", "A", "C", "A", "B", "A"]))


def test_spaces_other_alphabets_and_links(tmp_path):
    root = tmp_path / "Ableitungen für Zoë 日本" / "xcp d"
    matrices = write_xcp_d(root)
    (root / "loop").symlink_to(root)
    (root / "sub-01" / "again").symlink_to(root / "sub-01", target_is_directory=True)
    elsewhere = tmp_path / "annex"
    elsewhere.mkdir()
    path = relmat(root, 0)
    shutil.move(path, elsewhere / "content")
    path.symlink_to(elsewhere / "content")
    shutil.move(root / "sub-04", elsewhere / "sub-04")
    (root / "sub-04").symlink_to(elsewhere / "sub-04")
    np.testing.assert_array_equal(values_of(load(root)), lower(matrices))
    (elsewhere / "content").unlink()
    refused("link to a file that is not there.*datalad get", root)
    path.unlink()
    path.symlink_to(path.name)
    refused("cannot be read.*symbolic links", root)


def test_a_line_of_100_mb(tmp_path):
    write_xcp_d(tmp_path)
    with relmat(tmp_path, 3).open("wb") as file:
        file.write(b"x" * 100_000_000)
    error = refused("damaged", tmp_path)
    assert len(str(error)) < 2000
    relmat(tmp_path, 3).write_bytes(b"Node\ta\nb\t1" + b"0" * 20_000_000)
    assert "a line of 20 MB" in str(refused("damaged", tmp_path))


def test_a_pipe_is_not_waited_for(tmp_path):
    write_xcp_d(tmp_path)
    relmat(tmp_path, 3).unlink()
    os.mkfifo(folder_of(tmp_path, STEMS[3]) / f"{STEMS[3]}_atlas-{ATLAS}_stat-pearsoncorrelation_relmat.tsv")
    os.mkfifo(tmp_path / "pipe.txt")
    refused("not a plain file", tmp_path)


def test_matlab_files_that_cannot_be_read(tmp_path):
    write_conn(tmp_path)
    scans = make_scans().assign(scan_id=[f"Subject{k + 1:03d}" for k in range(6)])
    path = next(tmp_path.rglob("*Subject002*"))
    whole = path.read_bytes()
    path.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n\x1a\n" + bytes(100))
    refused("version 7.3.*-v7", tmp_path, scans)
    for damaged in (whole[:300], b"", b"text", whole[:128] + bytes(500)):
        path.write_bytes(damaged)
        refused("MATLAB file is damaged", tmp_path, scans)


def test_unknown_and_ambiguous_folders(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    refused("not in a known format.*0 files.*docs/how-to/other_tools.md", empty)
    series = folder_of(empty, STEMS[0]) / f"{STEMS[0]}_atlas-Tian_stat-mean_timeseries.tsv"
    series.write_text("a\tb\n1\t2\n")
    refused("bayesharm connectivity", empty)
    refused("A file does not exist", tmp_path / "nowhere", format="xcp_d")
    refused("A file cannot be read", tmp_path / ("x" * 5000), format="xcp_d")
    refused("A file cannot be read", "nul\0byte", format="xcp_d")
    write_xcp_d(tmp_path / "both")
    write_giga_connectome(tmp_path / "both")
    refused("several tools.*xcp_d, giga_connectome.*--input-format xcp_d", tmp_path / "both")
    assert load(tmp_path / "both", format="xcp_d").features.n_scans == 6
    refused("not in the format conn", tmp_path / "both", format="conn")
    refused("format is unknown", tmp_path / "both", format="fsl")
    refused("missing_files='ignore'", tmp_path / "both", missing_files="ignore")
    refused("name their regions.*no label file", tmp_path / "both", format="xcp_d", labels=tmp_path / "x.tsv")
    with pytest.raises(InputError, match="do not apply"):
        load_dataset(make_scans(), np.zeros((6, 3)), atlas="Tian")


@pytest.mark.parametrize(
    "text, message",
    [
        ("index\tname\n1\ta\n1\tb\n", "numbers that occur more than once: '1'"),
        ("a\na\n", "names that occur more than once: 'a'"),
        ("", "no lines"),
        ("index\tname\n1\t\n", "a region without a name"),
        ("index\tname\n1\n", "too few cells in line 2"),
    ],
)
def test_label_files_that_cannot_be_used(tmp_path, text, message):
    write_giga_connectome(tmp_path / "giga")
    (tmp_path / "labels.tsv").write_text(text)
    refused(message, tmp_path / "giga", labels=tmp_path / "labels.tsv")


def test_label_files_of_several_forms(tmp_path):
    from bayesharm.data.readers.labels import read_labels

    path = tmp_path / "labels"
    for text in (
        "\n".join(REGIONS),
        "# FreeSurfer\n" + "\n".join(f"{k}  {name} 120 18 131 0" for k, name in enumerate(["Unknown", *REGIONS])),
        "index,label\n" + "\n".join(f"{k},{name}" for k, name in enumerate(REGIONS, 1)),
        "\n".join(f"{k}\t{name}" for k, name in enumerate(REGIONS, 1)),
    ):
        path.write_text(text, encoding="utf-16" if text.startswith("index") else "utf-8")
        assert list(read_labels(path).values()) == REGIONS


def test_the_run_says_where_its_data_are(tmp_path):
    write_xcp_d(tmp_path / "xcp", atlases=("Gordon", "Tian"))
    make_scans().to_csv(tmp_path / "scans.tsv", sep="\t", index=False)
    dataset = load_dataset(tmp_path / "scans.tsv", tmp_path / "xcp", atlas="Tian", entities={"desc": "none"})
    assert dataset.origin is not None
    assert (dataset.origin["atlas"], dataset.origin["entities"]) == ("Tian", {"desc": "none"})
    again = load_dataset(**dataset.origin)
    np.testing.assert_array_equal(values_of(again), values_of(dataset))


def test_features_are_chosen_by_name(tmp_path):
    matrices = write_xcp_d(tmp_path)
    dataset = load(tmp_path, select="edge_LH_*")
    assert dataset.features.names.tolist() == ["edge_LH_Vis_2_LH_Vis_1"]
    np.testing.assert_array_equal(values_of(dataset)[:, 0], matrices[:, 1, 0])


def test_values_stay_on_disk_and_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    matrices = write_xcp_d(tmp_path / "xcp")
    dataset = load(tmp_path / "xcp")
    assert os.listdir(tmp_path / "temporary") == []
    np.testing.assert_array_equal(dataset.features.read(2, 5), lower(matrices)[:, 2:5])
    np.testing.assert_array_equal(values_of(dataset.sorted()), lower(matrices))


def test_progress_is_reported(tmp_path):
    write_xcp_d(tmp_path)
    reports = []
    load(tmp_path, progress=lambda *report: reports.append(report))
    assert reports[0] == ("reading files", 0, 6, "") and reports[-1] == ("reading files", 6, 6, "")
