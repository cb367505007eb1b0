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


def test_the_list_of_dependencies_holds_those_of_users_with_their_versions(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from sbom import make_sbom

    listed = make_sbom(ROOT)
    components = {each["name"]: each for each in listed["components"]}
    assert names_of(PROJECT["dependencies"]) | {"nibabel", "jaxlib", "pymc"} <= components.keys()
    assert not {"pytest", "sphinx", "mypy", "ruff"} & components.keys()
    locked = (ROOT / "requirements.lock").read_text()
    assert all(f"{name}=={each['version']}" in locked for name, each in components.items())
    assert components["numpy"]["scope"] == "required" and components["pymc"]["scope"] == "optional"
    known = {each["purl"] for each in components.values()}
    own, *others = listed["dependencies"]
    assert set(own["dependsOn"]) == {
        components[name]["purl"]
        for extra, given in {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}.items()
        if extra not in OF_DEVELOPERS
        for name in names_of(given)
    }
    assert all({each["ref"], *each["dependsOn"]} <= known for each in others)
