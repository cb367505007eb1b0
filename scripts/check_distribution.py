"""Check that an sdist and a wheel hold what they should and nothing else: `check_distribution.py SDIST WHEEL OF_SDIST`."""

from __future__ import annotations

import json
import os
import re
import sys
import tarfile
import tempfile
import zipfile
from email.parser import BytesParser
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LARGEST = 12e6  # bytes of a wheel
PLACES = [str(ROOT.parent) + "/", os.path.expanduser("~") + "/", tempfile.gettempdir() + "/"]
HOSTS = re.compile(rb"https?:/{2}([\d.]+|[\w-]+)[:/]|index[-]url", re.IGNORECASE)  # a number, or a name without a domain


def check_wheel(wheel: Path) -> list[str]:
    """Return what is wrong with a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    about = next(name.split("/")[0] for name in files if name.endswith(".dist-info/METADATA"))
    expected = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "bayesharm").rglob("*") if path.is_file()} | {
        f"bayesharm/{path.relative_to(ROOT).as_posix()}": path for path in (ROOT / "models").rglob("*") if path.is_file()
    }
    expected = {name: path for name, path in expected.items() if "__pycache__" not in name}
    found = {name for name in files if not name.startswith(about)}
    problems = [f"missing: {name}" for name in expected if name not in found or files[name] != expected[name].read_bytes()]
    problems += [f"not of the package: {name}" for name in found - set(expected)]
    rest = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE", "sboms/bayesharm.cdx.json"}
    if others := {name.removeprefix(f"{about}/") for name in files if name.startswith(about)} ^ rest:
        problems.append(f"in {about}: {sorted(others)}")
    else:
        problems += check_metadata(files[f"{about}/METADATA"], files[f"{about}/sboms/bayesharm.cdx.json"])
    if wheel.stat().st_size > LARGEST:
        problems.append(f"{wheel.stat().st_size / 1e6:.1f} MB, of at most {LARGEST / 1e6:.0f}")
    return problems + find_places(files)


def check_metadata(metadata: bytes, sbom: bytes) -> list[str]:
    """Return what is wrong with the metadata, and with the list of dependencies."""
    about, listed = BytesParser().parsebytes(metadata), json.loads(sbom)
    needed = {
        Requirement(each).name for each in about.get_all("Requires-Dist", []) if "dev" not in each and "docs" not in each
    }
    names = {component["name"] for component in listed["components"]}
    problems = [f"not in the SBOM: {name}" for name in sorted(needed - names)]
    if listed["metadata"]["component"]["version"] != about["Version"]:
        problems.append("the SBOM is of another version")
    if about["License-Expression"] != "MIT" or not about.get_payload():
        problems.append("no license, or no description")
    return problems


def check_sdist(sdist: Path) -> list[str]:
    """Return what is wrong with an sdist."""
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
        files = {each.name.partition("/")[2]: archive.extractfile(each).read() for each in members if each.isfile()}  # type: ignore[union-attr]
    allowed = ("bayesharm/", "models/", "tests/", "scripts/sbom.py")
    top = {"CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "SECURITY.md", "PKG-INFO", "pyproject.toml"}
    top |= {"requirements.lock", ".gitignore"}
    problems = [f"not expected: {name}" for name in files if name not in top and not name.startswith(allowed)]
    problems += [f"no plain file: {each.name}" for each in members if not (each.isfile() or each.isdir())]
    return problems + [f"missing: {name}" for name in top - set(files)] + find_places(files)


def find_places(files: dict[str, bytes]) -> list[str]:
    """Return the files that name places of this machine, or compiled files."""
    own = [name for name in files if name.startswith(("bayesharm/", "models/")) or ".dist-info/" in name or "/" not in name]
    problems = [f"{name} names {place}" for name in own for place in PLACES if place.encode() in files[name]]
    problems += [f"{name} names a host" for name in own if HOSTS.search(files[name]) and not name.endswith(".js")]
    return problems + [f"compiled: {name}" for name in files if name.endswith((".pyc", ".so"))]


def main(sdist: Path, wheel: Path, of_sdist: Path) -> int:
    """Print all problems; return 1 if there are some."""
    problems = {"sdist": check_sdist(sdist), "wheel": check_wheel(wheel)}
    if wheel.read_bytes() != of_sdist.read_bytes():
        problems["wheel of the sdist"] = ["other bytes than the wheel"]
    for name, found in problems.items():
        for each in found:
            print(f"{name}: {each}", file=sys.stderr)
    return int(any(problems.values()))


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:4])))
