"""The list of the dependencies of a wheel (SBOM, CycloneDX 1.6, PEP 770): hatchling calls this when it builds one.

Versions are those of ``requirements.lock``, with which the release was tested. The same sources give the same bytes.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FILE = "bayesharm.cdx.json"
OF_DEVELOPERS = ("dev", "docs")  # extras that users do not install
LOCKED = re.compile(r"^([\w.-]+)==([\w.+!-]+)(?: ; (.*?))?\n((?:    #.*\n)*)", re.MULTILINE)


class SbomHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the list to ``.dist-info/sboms`` of a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the list, and name it to the builder."""
        if self.target_name != "wheel" or version == "editable":
            return
        path = Path(self.root, "build", FILE)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(make_sbom(Path(self.root)), indent=1) + "\n", encoding="utf-8")
        build_data["sbom_files"].append(path.relative_to(self.root).as_posix())


def make_sbom(root: Path) -> dict[str, Any]:
    """Return the list as a document of CycloneDX."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: given for name, given in project["optional-dependencies"].items() if name not in OF_DEVELOPERS}
    direct = {_name(each) for each in (*project["dependencies"], *sum(extras.values(), []))}
    locked = _read_lock(root / "requirements.lock")
    needed = _close(direct, locked)
    always = _close({_name(each) for each in project["dependencies"]}, locked)
    own = f"pkg:pypi/{project['name']}@{project['version']}"
    purls = {name: f"pkg:pypi/{name}@{locked[name][0]}" for name in needed}
    components = [
        {
            "type": "library", "bom-ref": purls[name], "name": name, "version": locked[name][0], "purl": purls[name],
            "scope": "required" if name in always else "optional",
        }
        for name in needed
    ]  # fmt: skip
    graph = {own: sorted(direct)} | {purls[name]: [each for each in needed if name in locked[each][1]] for name in needed}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "library", "bom-ref": own, "name": project["name"], "version": project["version"], "purl": own,
                "licenses": [{"license": {"id": project["license"]}}],
            }
        },
        "components": components,
        "dependencies": [{"ref": ref, "dependsOn": [purls[name] for name in on]} for ref, on in graph.items()],
    }  # fmt: skip


def _name(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()  # type: ignore[index]


def _read_lock(path: Path) -> dict[str, tuple[str, set[str]]]:
    """Return the version of each package, and the packages that need it; of several versions, the last."""
    packages = LOCKED.findall(path.read_text(encoding="utf-8"))
    return {
        _name(name): (version, {_name(word) for word in re.findall(r"# +(?:via )?([\w.-]+)", via) if word != "via"})
        for name, version, _, via in packages
    }


def _close(names: set[str], locked: dict[str, tuple[str, set[str]]]) -> list[str]:
    """Add what packages need, and what these need in turn."""
    found: set[str] = set()
    while names - found:
        found |= names
        names = {name for name, (_, by) in locked.items() if by & found}
    return sorted(found)
