"""A new model, made from another one: a folder with a commented ``model.toml`` and a card to fill in."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

from bayesharm.errors import InputError
from bayesharm.model.catalog import AUTO, load_model, model_names
from bayesharm.model.spec import CROSSED, Family, ModelSpec, Priors

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
WIDTH = 98  # characters of a comment
FILL_IN = "*To be filled in.*"


def write_model(name: str, source: str, folder: Path, reserved: tuple[str, ...] = ()) -> None:
    """Make the folder of a new model.

    Parameters
    ----------
    name : str
    source : str
        The model to start from: a name, or a path to a folder.
    folder : path
        It must not exist.
    reserved : tuple of str
        Names with another meaning, besides those of the models of the package.

    Raises
    ------
    InputError
        The name cannot be used, or the folder exists or cannot be made.
    ModelError
        There is no such source.
    """
    taken = (*model_names(), AUTO, *reserved)
    if not NAME.fullmatch(name) or name in taken:
        raise InputError(
            "A new model cannot have this name.",
            got=repr(name),
            expected=f"a letter, then letters, digits, _ or -; not {', '.join(taken)}",
            do="choose another name",
        )
    spec = replace(load_model(source), name=name)
    if folder.exists():
        raise InputError(
            "The folder of the new model exists already.",
            got=str(folder),
            expected="a new folder",
            do="choose another name or another --out, or remove the folder",
        )
    try:
        folder.mkdir(parents=True)
        (folder / "model.toml").write_text(model_toml(spec, source), encoding="utf-8")
        (folder / "card.md").write_text(card(spec), encoding="utf-8")
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise InputError(
            "The folder of the new model cannot be made.",
            got=str(error),
            expected="a new folder in one that you can write to",
            do="choose another --out",
        ) from None


def model_toml(spec: ModelSpec, source: str) -> str:
    """Write a model as the text of a ``model.toml``, with a comment on every key."""
    about, of_priors, of_families = (_explanations(owner) for owner in (ModelSpec, Priors, Family))
    table = spec.to_dict()
    priors, families = table.pop("priors"), table.pop("families")
    defaults = {field.name: field.default for field in fields(Family)}
    ends = {name: "" if value is MISSING else f" Default: {_value(value)}." for name, value in defaults.items()}
    keys = "\n".join(_comment(f"{key}: {text}{ends[key]}", "#   ") for key, text in of_families.items())
    blocks = [
        "[[families]]\n" + "".join(f"{key} = {_value(value)}\n" for key, value in family.items() if value != defaults[key])
        for family in families
    ]
    return "\n".join([
        f"# {spec.name}: a model made from {source}.\n# After a change: bayesharm models check FOLDER\n",
        *_commented(table, about),
        _comment("Hyperpriors. Scales are in units of a feature's standard deviation over scans.") + "\n[priors]",
        *_commented(priors, of_priors),
        _comment("Families of effects, one table for each. Their keys; those that are left out have their defaults:"),
        keys + "\n",
        *blocks,
    ])  # fmt: skip


def card(spec: ModelSpec) -> str:
    """Write the card of a model, with its equations and families, and sections to fill in."""
    gain = "g[scanner(n)]·" if spec.gain == "scanner" else ""
    kappa = " · kappa[scanner(n)]" if spec.bias_ratio == "scanner" else ""
    terms, priors = [f"{gain}x[n]·beta[f]"], []
    for family in spec.families:
        at = f"[{levels_of(family)}(n),f]"
        start = f"first {family.slope} of the participant" if family.by == "participant" else f"mean {family.slope}"
        slope = [(family.slope_name, f"·({family.slope}[n] − {start})")] if family.slope else []
        for name, times in [(family.name, ""), *slope]:
            terms.append(f"{gain if family.has_gain else ''}{name}{at}{times}")
            ratio = kappa if family.by == "scanner" and not times else ""
            priors.append(f"    {name}{at} ~ Normal(0, tau_{name}[f]²{ratio})")
    rows = [f"| `{family.name}` | `{family.by}` | {family.prior_median} | {_others(family)} |" for family in spec.families]
    if spec.slopes:
        priors.append("    intercept and slope of a level: correlation rho, one for each family")
    noise = {"scanner": " · lambda[scanner(n)]", "scanner-feature": " · lambda[scanner(n),f]"}.get(spec.noise_ratio, "")
    noise += f" · {spec.noise_weight}[n]" if spec.noise_weight else ""
    return "\n".join([
        f"# {spec.name}: {spec.title}\n",
        f"For studies in which … {FILL_IN}\n",
        "## Model\n",
        "For scan n and feature f\n",
        "    y[n,f] = mu[f]",
        *(f"             + {term}" for term in terms),
        "             + e[n,f]\n",
        *priors,
        f"    e[n,f] ~ Normal(0, sigma[f]²{noise})",
        "    log tau_c[f] ~ Normal(eta_c + a[f], omega_c²)   for each family c; the same for log sigma[f]\n",
        "| family | by | prior median of the scale | other keys |",
        "|---|---|---|---|",
        *rows,
        f"| `noise` | | {spec.noise_scale} | |\n",
        f"## What it estimates\n\n{FILL_IN} `bayesharm harmonize` subtracts `{spec.removed_effect}`.\n",
        *(f"## {title}\n\n{FILL_IN}\n" for title in ("Assumptions", "When it is not identified", "When not to use it")),
        f"## Source\n\n{FILL_IN}\n",
    ])  # fmt: skip


def levels_of(family: Family) -> str:
    """Name the levels of a family: ``participant``, ``site × operator``."""
    return CROSSED.join(family.columns) or family.by


def _explanations(owner: type) -> dict[str, str]:
    """Return what the docstring of a class says about each attribute, with the values that it lists."""
    text = re.sub(r":\w+:", "", (inspect.getdoc(owner) or "").partition("Attributes\n----------\n")[2])
    found = re.findall(r"^(\w+) : (.*)\n((?:    .*\n?)+)", text, re.MULTILINE)
    words = {name: " ".join(lines.split()) for name, _, lines in found}
    return {name: words[name] + (f" One of {kind[1:-1]}." if kind.startswith("{") else "") for name, kind, _ in found}


def _commented(table: Mapping[str, Any], explanations: Mapping[str, str]) -> list[str]:
    return [f"{_comment(explanations[key])}\n{key} = {_value(value)}\n" for key, value in table.items()]


def _comment(text: str, first: str = "# ") -> str:
    return textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=first + "  " * (first != "# "))


def _value(value: Any) -> str:
    """Return a value as TOML: text, numbers, true and false, and lists of texts are as in JSON."""
    return json.dumps(value, ensure_ascii=False)


def _others(family: Family) -> str:
    shown = {"name", "by", "prior_median"}
    given = [(field.name, getattr(family, field.name), field.default) for field in fields(Family) if field.name not in shown]
    return ", ".join(f"`{name} = {_value(value)}`" for name, value, default in given if value != default)
