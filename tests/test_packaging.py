"""The package as it is published: its dependencies and their page."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OF_DEVELOPERS = ("dev", "docs")  # extras that users do not install


def names_of(requirements):
    return {re.match(r"[\w.-]+", each)[0] for each in requirements}


def test_the_page_of_dependencies_lists_all_of_them():
    page = (ROOT / "docs" / "development" / "dependencies.md").read_text()
    always, extras = page.split("## Extras")
    assert set(re.findall(r"^\| `([\w.-]+)` \|", always, re.MULTILINE)) == names_of(PROJECT["dependencies"])
    listed = {
        (extra, name)
        for name, of in re.findall(r"^\| `([\w.-]+)` \| ([\w, ]+) \|", extras, re.MULTILINE)
        for extra in of.split(", ")
    }
    optional = PROJECT["optional-dependencies"].items()
    assert listed == {(extra, name) for extra, given in optional if extra not in OF_DEVELOPERS for name in names_of(given)}


def test_every_dependency_has_a_lowest_version():
    given = [*PROJECT["dependencies"], *(each for group in PROJECT["optional-dependencies"].values() for each in group)]
    assert [each for each in given if ">=" not in each] == []
