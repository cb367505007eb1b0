"""BIDS datasets with small but real images, made for the tests."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np

PRISMA = {
    "Manufacturer": "Siemens", "ManufacturersModelName": "MAGNETOM Prisma_fit", "DeviceSerialNumber": "67001",
    "InstitutionName": "Kyoto University Hospital", "MagneticFieldStrength": 3, "ReceiveCoilName": "HeadNeck_64",
    "SoftwareVersions": "syngo MR E11", "PhaseEncodingDirection": "j-", "FlipAngle": 80, "EchoTime": 0.03,
}  # fmt: skip
VERIO = PRISMA | {
    "ManufacturersModelName": "Verio", "DeviceSerialNumber": "40321", "InstitutionName": "University of Hiroshima",
    "ReceiveCoilName": "Head_32",
}  # fmt: skip
MR750 = {
    "Manufacturer": "GE", "ManufacturersModelName": "DISCOVERY MR750", "StationName": "GEHC3T", "MagneticFieldStrength": 3.0,
    "InstitutionName": "Medical Centre of Nara", "PhaseEncodingDirection": "j", "FlipAngle": 77.0, "EchoTime": 0.025,
}  # fmt: skip
SCANNERS = {"kyoto": PRISMA, "hiroshima": VERIO, "nara": MR750}


def write_json(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), "utf-8")


def write_table(path: Path, *rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows), "utf-8")


def write_image(path: Path, sidecar=None, n_volumes: int = 3) -> None:
    """Write an image of 4 × 4 × 4 voxels, and its sidecar if there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape, zooms = ((4, 4, 4, n_volumes), (1, 1, 1, 2.5)) if n_volumes > 1 else ((4, 4, 4), (1, 1, 1))
    image = nib.Nifti1Image(np.zeros(shape, np.int16), np.eye(4))
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms(zooms)
    nib.save(image, path)
    if sidecar is not None:
        write_json(path.with_name(path.name.partition(".")[0] + ".json"), sidecar)


def write_dataset(root: Path) -> Path:
    """A study of six people: two travelers on three scanners (one of them misses one), four people scanned once.

    Scanners are told by the sidecars at three levels: the root has the repetition time, the session or the participant the
    scanner, and the scan its flip angle if it differs.
    """
    write_json(root / "dataset_description.json", {"Name": "Travelers", "BIDSVersion": "1.10.0", "License": "CC0"})
    (root / "README").write_text("A study for the tests of bayesharm, with travelers.\n" * 3)
    write_json(root / "task-rest_bold.json", {"TaskName": "rest", "RepetitionTime": 2.5, "FlipAngle": 80})
    people = [("sub-01", "34", "F", "HC", "kyoto"), ("sub-02", "n/a", "M", "HC", "hiroshima")]
    people += [
        (f"sub-{n:02d}", str(20 + n), "FM"[n % 2], ("MDD", "HC")[n % 2], ("kyoto", "hiroshima")[n > 4]) for n in range(3, 7)
    ]
    write_table(root / "participants.tsv", ("participant_id", "age", "sex", "diagnosis", "institution"), *people)
    write_json(root / "participants.json", {"age": {"Description": "Age in years.", "Units": "year"}})
    for participant in ("01", "02"):
        sub = root / f"sub-{participant}"
        sessions = [name for name in SCANNERS if (participant, name) != ("02", "nara")]
        rows = [(f"ses-{name}", f"202{k}-05-01T10:00:00", 34 + k) for k, name in enumerate(SCANNERS)]
        write_table(sub / f"sub-{participant}_sessions.tsv", ("session_id", "acq_time", "age"), *rows)
        for year, name in enumerate(sessions):
            ses, stem = sub / f"ses-{name}", f"sub-{participant}_ses-{name}"
            write_json(ses / f"{stem}_task-rest_bold.json", SCANNERS[name])
            write_image(ses / "func" / f"{stem}_task-rest_bold.nii.gz", {"RepetitionTime": 2.5000001})
            write_table(
                ses / f"{stem}_scans.tsv",
                ("filename", "acq_time"),
                (f"func/{stem}_task-rest_bold.nii.gz", f"202{year}-05-01T09:30:00"),
            )
            write_image(ses / "anat" / f"{stem}_T1w.nii.gz", SCANNERS[name], 1)
    for n in range(3, 7):
        sub, stem = root / f"sub-{n:02d}", f"sub-{n:02d}"
        write_json(sub / f"{stem}_task-rest_bold.json", (PRISMA, VERIO)[n > 4])
        write_image(sub / "func" / f"{stem}_task-rest_bold.nii.gz")
    (root / "sub-01" / "ses-kyoto" / "func" / "sub-01_ses-kyoto_task-rest_events.tsv").write_text("onset\tduration\n1\t2\n")
    write_image(root / "derivatives" / "prep" / "sub-01" / "func" / "sub-01_task-rest_desc-preproc_bold.nii.gz")
    return root


REGIONS = {"Tiny": ["LH_Vis_1", "LH_Vis_2", "RH_Default_PFC_1", "Hippocampus", "Thalamus"], "Other": ["a", "b", "c"]}


def write_matrices(root: Path, scan_ids: list[str], space: str = "MNI152NLin2009cAsym") -> Path:
    """Correlation matrices of two atlases as XCP-D writes them; the third region of the first scan is not covered."""
    rng = np.random.default_rng(0)
    folder = root / "derivatives" / "xcp_d"
    made_by = [{"Name": "xcp_d", "Version": "26.1.1"}]
    description = {"Name": "XCP-D", "BIDSVersion": "1.10.0", "DatasetType": "derivative", "GeneratedBy": made_by}
    write_json(folder / "dataset_description.json", description)
    for k, scan in enumerate(scan_ids):
        for atlas, regions in REGIONS.items():
            r = np.corrcoef(rng.normal(size=(len(regions), 30)) + rng.normal(size=30))
            if k == 0 and atlas == "Tiny":
                r[2], r[:, 2] = np.nan, np.nan
            folders = [part for part in scan.split("_") if part.startswith(("sub-", "ses-"))]
            name = f"{scan}_space-{space}_atlas-{atlas}_stat-pearsoncorrelation_relmat.tsv"
            rows = [
                [region, *("n/a" if np.isnan(x) else f"{x:.6f}" for x in row)]
                for region, row in zip(regions, r, strict=True)
            ]
            write_table(folder.joinpath(*folders, "func", name), ["Node", *regions], *rows)
    return folder
