"""BIDS datasets: the scans table, what is refused, and the BIDS-App."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bids_trees import PRISMA, VERIO, write_dataset, write_image, write_json, write_table
from typer.testing import CliRunner

from bayesharm.cli.app import app
from bayesharm.data.bids.scanners import unify_spelling
from bayesharm.data.bids.scans import read_bids_scans
from bayesharm.data.scans import read_scans
from bayesharm.errors import InputError

runner = CliRunner()


def run(*args, code: int = 0):
    result = runner.invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


@pytest.fixture(scope="module")
def original(make_once) -> Path:
    return make_once("bids", lambda folder: write_dataset(folder) and None)


@pytest.fixture
def dataset(original, tmp_path) -> Path:
    """A copy that a test may change; blanks and other alphabets in its path do not matter."""
    return Path(shutil.copytree(original, tmp_path / "京都 données"))


def scan_of(root: Path, participant: str = "sub-03", **changes) -> Path:
    """Add a scan of one more person, described by the Prisma's sidecar with changes; None removes a field."""
    sidecar = {name: value for name, value in (PRISMA | changes).items() if value is not None}
    image = root / participant / "func" / f"{participant}_task-rest_run-7_bold.nii.gz"
    write_image(image, sidecar)
    return image


# ---- the table


def test_the_table_has_one_row_per_scan_with_person_protocol_and_scanner(dataset, tmp_path):
    text = run("scans", dataset, "--out", tmp_path / "scans.tsv")
    scans = pd.read_csv(tmp_path / "scans.tsv", sep="\t", index_col="scan_id", dtype=str, na_values="n/a")
    assert "9 scans of 6 people, 2 travelers, 3 scanners" in text
    assert list(scans.columns[:9]) == [
        "participant_id", "session", "task", "scanner", "site", "age", "sex", "diagnosis", "institution",
    ]  # fmt: skip
    traveler = scans[scans.participant_id == "sub-01"]
    assert list(traveler.scanner) == ["Verio-Hiroshima-1", "PrismaFit-Kyoto-1", "DISCOVERYMR750-Nara-1"]
    assert set(traveler.site) == {"kyoto"}  # recruited there, wherever the scan was
    assert list(traveler.age) == ["35", "34", "36"]  # sessions.tsv decides over participants.tsv
    assert traveler.acq_time["sub-01_ses-nara_task-rest"] == "2022-05-01T09:30:00"  # scans.tsv over sessions.tsv
    assert scans.site["sub-05_task-rest"] == "hiroshima" and scans.diagnosis["sub-04_task-rest"] == "MDD"
    assert scans.session["sub-03_task-rest"] is np.nan or pd.isna(scans.session["sub-03_task-rest"])
    assert set(scans.RepetitionTime) == {"2.5"} and set(scans.MagneticFieldStrength) == {"3"}
    ready = read_scans(tmp_path / "scans.tsv")
    assert ready.scanner.nunique() == 3 and ready.age.dtype.kind in "if"


def test_the_summary_says_what_differs_is_missing_and_is_left_out(dataset, tmp_path):
    write_image(dataset / "sub-03" / "func" / "sub-03_task-rest_sbref.nii.gz")
    (dataset / ".git").mkdir()
    text = run("scans", dataset, "--out", tmp_path / "scans.tsv")
    for part in (
        "ReceiveCoilName: HeadNeck_64 (PrismaFit-Kyoto-1); Head_32 (Verio-Hiroshima-1); n/a (DISCOVERYMR750-Nara-1)",
        "another data type: 5, such as 'sub-01/ses-hiroshima/anat/'",
        "no raw data: 1, such as 'derivatives/'",
        "hidden: 1, such as '.git'",
        "sbref image: 1",
        "Sessions of the tables without scans: 1 ('sub-02_ses-nara')",
        "Scans that are in no scans.tsv: 4 ",
        "age of 2 scans differs between the tables",
        "Column institution is taken as the site",
        "ReceiveCoilName in 1 of 9 scans, of DISCOVERYMR750-Nara-1 ('sub-01_ses-nara_task-rest')",
        "Each session label is used on one scanner only",
    ):
        assert part in text


def test_the_data_dictionary_describes_every_column(dataset, tmp_path):
    run("scans", dataset, "--out", tmp_path / "scans.tsv")
    described = json.loads((tmp_path / "scans.json").read_text())
    assert list(described) == list(pd.read_csv(tmp_path / "scans.tsv", sep="\t", nrows=0).columns)
    assert described["age"] == {"Description": "Age in years.", "Units": "year"}  # from participants.json
    assert described["EchoTime"]["Units"] == "s"
    assert "FlipAngle 77" in described["scanner"]["Levels"]["DISCOVERYMR750-Nara-1"]


def test_scans_are_chosen_by_suffix_and_label(dataset):
    anatomy = read_bids_scans(dataset, suffix="T1w").table
    assert list(anatomy.scan_id[:2]) == ["sub-01_ses-hiroshima", "sub-01_ses-kyoto"] and len(anatomy) == 5
    chosen = read_bids_scans(dataset, participants=["01", "sub-02"], sessions=["kyoto"], tasks=["task-rest"])
    assert list(chosen.table.participant_id) == ["sub-01", "sub-02"]
    assert chosen.ignored["not among the chosen participants"] == [f"sub-{n:02d}/" for n in range(3, 7)]
    with pytest.raises(InputError, match=r"There are no bold scans of 'task-nback'"):
        read_bids_scans(dataset, tasks=["nback"])


def test_nothing_is_replaced_without_overwrite(dataset, tmp_path):
    out = tmp_path / "scans.tsv"
    out.write_text("edited by hand")
    assert "exists already" in run("scans", dataset, "--out", out, code=2) and out.read_text() == "edited by hand"
    run("scans", dataset, "--out", out, "--overwrite")
    assert out.read_text().startswith("scan_id\t")
    assert "ending in .tsv" in run("scans", dataset, "--out", tmp_path / "scans.csv", code=2)


# ---- sidecars


def test_the_most_specific_sidecar_decides(dataset):
    root, sub, ses = dataset, dataset / "sub-01", dataset / "sub-01" / "ses-kyoto"
    write_json(root / "bold.json", {"FlipAngle": 1, "EchoTime": 0.001, "InstitutionName": "Root"})
    write_json(sub / "sub-01_task-rest_bold.json", {"FlipAngle": 85, "StationName": "SUB"})
    write_json(sub / "sub-01_task-other_bold.json", {"StationName": "OTHER"})  # does not apply
    write_json(sub / "sub-01_T1w.json", {"StationName": "T1W"})  # does not apply
    write_json(ses / "func" / "sub-01_ses-kyoto_bold.json", {"EchoTime": 0.031})
    scans = read_bids_scans(dataset).table.set_index("scan_id")
    scan = scans.loc["sub-01_ses-kyoto_task-rest"]
    # flip angle: root 1 < root of the task 80 < participant 85 < session 80; echo time: session 0.03 < folder of the scan
    assert (scan.FlipAngle, scan.EchoTime, scan.StationName) == ("80", "0.031", "SUB")
    assert scan.InstitutionName == "Kyoto University Hospital" and scans.loc["sub-03_task-rest"].FlipAngle == "80"


def test_sidecars_of_one_folder_that_contradict_each_other_are_named(dataset):
    folder = dataset / "sub-03"
    write_json(folder / "sub-03_bold.json", {"FlipAngle": 60})
    write_json(folder / "sub-03_task-rest_bold.json", PRISMA | {"FlipAngle": 70})  # more entities: decides
    assert read_bids_scans(dataset).table.set_index("scan_id").FlipAngle["sub-03_task-rest"] == "70"
    scan = dataset / "sub-03" / "func" / "sub-03_task-rest_run-1_bold.nii.gz"
    write_image(scan)
    write_json(folder / "sub-03_run-1_bold.json", {"FlipAngle": 71})
    with pytest.raises(InputError, match=r"contradict each other on FlipAngle") as error:
        read_bids_scans(dataset)
    assert "sub-03_run-1_bold.json" in str(error.value) and "sub-03_task-rest_bold.json" in str(error.value)


def test_echoes_and_parts_of_one_acquisition_are_one_scan(tmp_path):
    for participant in ("01", "02"):
        for echo, time in ((1, 0.0128), (2, 0.0273), (3, 0.0418)):
            stem = f"sub-{participant}_task-rest_echo-{echo}_part-mag_bold.nii.gz"
            write_image(tmp_path / f"sub-{participant}" / "func" / stem, PRISMA | {"EchoTime": time})
    write_image(tmp_path / "sub-01" / "func" / "sub-01_task-rest_echo-1_part-phase_bold.nii.gz", PRISMA)
    scans = read_bids_scans(tmp_path)
    assert list(scans.table.scan_id) == ["sub-01_task-rest", "sub-02_task-rest"]
    assert set(scans.table.EchoTime) == {"0.0128, 0.0273, 0.0418"} and set(scans.table.scanner) == {"PrismaFit-Kyoto-1"}
    assert len(scans.images["sub-01_task-rest"]) == 3 and "phase image" in scans.ignored


# ---- scanners


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("RepetitionTime", [2.5, 2.5000001, "2.5", 2.0], ["2.5", "2.5", "2.5", "2"]),
        ("EchoTime", [0.03, 0.0300002, 0.031, [0.01, 0.02], None], ["0.03", "0.03", "0.031", "0.01, 0.02", None]),
        ("MagneticFieldStrength", [3, 3.0, "3", 2.89362], ["3", "3", "3", "2.89362"]),
        ("Manufacturer", ["Siemens", "SIEMENS", " Siemens", "GE"], ["Siemens", "Siemens", "Siemens", "GE"]),
        ("SoftwareVersions", [["a", "b"], "n/a", "", {"x": 1}], ["a, b", None, None, None]),
        ("DeviceSerialNumber", [67001, "67001", "067001"], ["67001", "67001", "067001"]),
        ("FlipAngle", [float("nan"), 10**400, "x", True], [None] * 4),
    ],
)
def test_equal_values_are_spelled_alike(name, values, expected):
    assert unify_spelling(name, values)[0] == expected


def test_a_missing_field_is_not_equal_to_any_value(dataset):
    with (dataset / "participants.tsv").open("a") as table:
        table.write("sub-07\t40\tF\tHC\tkyoto\n")
    scan_of(dataset, "sub-07", DeviceSerialNumber=None)
    found = read_bids_scans(dataset)
    assert found.table.set_index("scan_id").scanner["sub-07_task-rest_run-7"] == "PrismaFit-Kyoto-2"
    for sentence in (
        "PrismaFit-Kyoto-1 and PrismaFit-Kyoto-2 differ in DeviceSerialNumber (67001, n/a)",
        "DeviceSerialNumber in 2 of 10 scans, of DISCOVERYMR750-Nara-1 and PrismaFit-Kyoto-2",
    ):
        assert any(sentence in note for note in found.notes)


def test_upgrades_and_pseudonyms_are_left_to_the_person(dataset):
    scan_of(dataset, SoftwareVersions="syngo MR XA30")
    found = read_bids_scans(dataset)
    assert found.table.scanner.nunique() == 3
    assert any("SoftwareVersions varies within PrismaFit-Kyoto-1" in note for note in found.notes)
    by_software = read_bids_scans(dataset, scanner_by=["ManufacturersModelName", "SoftwareVersions"])
    assert "PrismaFit-SyngoMRXA30" in set(by_software.table.scanner)
    for n in range(3, 7):
        write_json(
            dataset / f"sub-{n:02d}" / f"sub-{n:02d}_task-rest_bold.json",
            (PRISMA, VERIO)[n > 4] | {"DeviceSerialNumber": f"p{n}"},
        )
    (dataset / "sub-03" / "func" / "sub-03_task-rest_run-7_bold.json").unlink()
    found = read_bids_scans(dataset)
    assert found.table.scanner.nunique() == 3 and any("DeviceSerialNumber is not used" in note for note in found.notes)


def test_scanners_of_one_model_and_place_are_told_by_their_difference(dataset):
    scan_of(dataset, FlipAngle=90)
    scan_of(dataset, "sub-04", EchoTime=30)
    notes = read_bids_scans(dataset).notes
    assert any("PrismaFit-Kyoto-1, PrismaFit-Kyoto-2 and PrismaFit-Kyoto-3 differ in EchoTime" in note for note in notes)
    assert any("EchoTime seems to be in milliseconds in some scans: 30;" in note for note in notes)


def test_one_traveler_alone_has_no_pseudonyms(tmp_path):
    for n in range(4):
        write_image(
            tmp_path / "sub-01" / f"ses-{n}" / "func" / f"sub-01_ses-{n}_bold.nii.gz", PRISMA | {"DeviceSerialNumber": n}
        )
    assert read_bids_scans(tmp_path).table.scanner.nunique() == 4


def test_names_of_scanners_differ_in_more_than_capitals(tmp_path):
    for n, place in enumerate(("KYOTO hospital", "Kyoto University", "Kyoto-University", "of the")):
        write_image(tmp_path / f"sub-{n}" / "func" / f"sub-{n}_bold.nii.gz", PRISMA | {"InstitutionName": place})
    names = read_bids_scans(tmp_path).table.scanner
    assert names.str.casefold().nunique() == 4, names


def test_columns_may_tell_scanners_apart(dataset):
    assert set(read_bids_scans(dataset, scanner_by=["site"]).table.scanner) == {"Kyoto", "Hiroshima"}
    with pytest.raises(InputError, match=r"--scanner-by names Coil"):
        read_bids_scans(dataset, scanner_by=["Coil"])


def test_participants_without_age_or_table(dataset):
    write_table(dataset / "participants.tsv", ("participant_id",), *([f"sub-{n:02d}"] for n in range(1, 7)))
    assert "sex" not in read_bids_scans(dataset).table
    (dataset / "participants.tsv").unlink()
    (dataset / "dataset_description.json").unlink()
    notes = read_bids_scans(dataset).notes
    assert any("no participants.tsv" in note for note in notes) and any("dataset_description.json" in note for note in notes)


# ---- what is refused


def remove_participant(root: Path) -> None:
    table = root / "participants.tsv"
    table.write_text("".join(line for line in table.read_text().splitlines(True) if "sub-04" not in line))


def bold(root: Path, participant: str, name: str) -> Path:
    return root / participant / "func" / name


def table(root: Path, *rows) -> None:
    write_table(root / "participants.tsv", *rows)


def sessions(root: Path, *names: str) -> None:
    write_table(root / "sub-01" / "sub-01_sessions.tsv", ("session_id",), *([name] for name in names))


SIDECAR = "sub-03/sub-03_task-rest_bold.json"
# message -> how to make the dataset bad, and a detail of the message
BAD = {
    "missing from participants.tsv": (remove_participant, "'sub-04'"),
    "no column 'participant_id'": (lambda root: table(root, ("Participant_ID", "age"), ("sub-01", 3)), "rename column"),
    "several rows for the same participant_id": (
        lambda root: table(root, ("participant_id",), ("sub-01",), ("sub-01",)), "'sub-01'",
    ),
    "several rows for the same session_id": (lambda root: sessions(root, "ses-kyoto", "ses-kyoto"), "ses-kyoto"),
    "Some scans are there twice": (lambda root: write_image(bold(root, "sub-03", "sub-03_task-rest_bold.nii")), ".nii and"),
    "not valid JSON": (lambda root: (root / SIDECAR).write_text('{"EchoTime": 0.03,}'), "line 1"),
    "sidecar is not valid JSON": (lambda root: (root / "task-rest_bold.json").write_text("[1]"), "a list"),
    "do not say which scanner": (lambda root: write_json(root / SIDECAR, {"EchoTime": 1}), "--scanner-by site or session"),
    "contradict their folders": (lambda root: write_image(bold(root, "sub-03", "sub-04_task-rest_bold.nii.gz")), "sub-04"),
    "loop of links": (lambda root: (root / "sub-03" / "ses-9").symlink_to(root), "ses-9"),
    "has a loop": (lambda root: (root / "sub-99").symlink_to("sub-99"), "leads to itself"),
    "no folders sub-": (lambda root: [shutil.rmtree(path) for path in root.glob("sub-*")], "participants.tsv"),
    "There are no bold scans": (lambda root: [shutil.rmtree(path) for path in root.rglob("func")], "another data type"),
    "cannot be read": (lambda root: table(root, ("participant_id", "age"), ("sub-01",), ("sub-02", 1, 2)), "participants"),
}  # fmt: skip


@pytest.mark.parametrize("message", BAD)
def test_a_bad_dataset_is_refused_and_nothing_written(dataset, tmp_path, message):
    make_bad, detail = BAD[message]
    make_bad(dataset)
    text = run("scans", dataset, "--out", tmp_path / "scans.tsv", code=2)
    assert message in text and detail in text and "do this:" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == [dataset.name]


def test_a_root_that_is_no_folder_is_refused(tmp_path):
    for root in (tmp_path / "absent", Path(__file__)):
        assert "folder" in run("scans", root, "--out", tmp_path / "scans.tsv", code=2)
    assert not list(tmp_path.iterdir())


def test_all_problems_of_a_dataset_come_together(dataset):
    BAD["not valid JSON"][0](dataset)
    BAD["several rows for the same session_id"][0](dataset)
    BAD["Some scans are there twice"][0](dataset)
    with pytest.raises(InputError, match=r"The dataset has 3 problems"):
        read_bids_scans(dataset)


def test_links_that_end_are_followed(dataset, tmp_path):
    shutil.move(dataset / "sub-03", tmp_path / "elsewhere")
    (dataset / "sub-03").symlink_to(tmp_path / "elsewhere")
    image = dataset / "sub-04" / "func" / "sub-04_task-rest_bold.nii.gz"
    image.unlink()
    image.symlink_to(dataset / ".git" / "annex" / "not-fetched")  # as git-annex leaves it; images are not opened
    assert len(read_bids_scans(dataset).table) == 9
    (dataset / ".bidsignore").write_text("# not good\nsub-04_*\nsub-05/\n")
    assert len(read_bids_scans(dataset).table) == 7


def test_names_that_are_not_text_do_not_matter(dataset):
    for name in (b"\xff_bold.nii.gz", b"sub-03_task-\xe9_bold.nii.gz", b"sub-03_task-a-b_bold.nii.gz", b"_bold.nii.gz"):
        (Path(os.fsdecode(os.fsencode(dataset / "sub-03" / "func") + b"/" + name))).touch()
    found = read_bids_scans(dataset)
    assert len(found.table) == 9 and len(found.ignored["not a name of BIDS"]) == 4
    run("scans", dataset, "--out", dataset.parent / "scans.tsv")
