"""The commands that repeat a run, and that harmonize with it; and what they cannot say."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bayesharm.fitting.settings import Settings
from bayesharm.model.catalog import load_model, model_names
from bayesharm.model.spec import ModelSpec
from bayesharm.model.template import model_toml
from bayesharm.reporting.run_view import RunView

COLUMN_OPTIONS = {
    "scan_id": "--scan", "participant_id": "--participant", "scanner": "--scanner", "site": "--site",
    "diagnosis": "--diagnosis", "traveling": "--traveling",
}  # fmt: skip
READING_OPTIONS = {
    "missing": ("--missing", "model"),
    "bad_features": ("--bad-features", "error"),
    "transform": ("--transform", None),
}
DERIVATIVE_OPTIONS = {
    "format": "--input-format", "atlas": "--atlas", "measure": "--measure", "labels": "--labels",
    "label_column": "--label-column", "missing_files": "--missing-files",
}  # fmt: skip
MODEL_OPTIONS = {
    "formula": "--formula", "gain": "--gain", "noise_weight": "--noise-weight", "feature_scaling": "--feature-scaling",
    "noise_ratio": "--noise-ratio", "likelihood": "--likelihood", "reference": "--reference",
}  # fmt: skip
SETTING_OPTIONS = ("preview", "chains", "draws", "target_ess", "block_size", "dtype", "keep_draws")
LABELED = (".csv", ".tsv", ".parquet")  # formats of features with names of scans
KEPT = ("none", "thin", "all")  # values of --keep-draws; in Python it may be a number
OWN_MODEL = "model_of_this_run"  # folder for a model that is not in the package


def harmonize_command(view: RunView) -> str:
    """Return the command that harmonizes the data of the fit."""
    origin = view.posterior.run.get("data") or {}
    ending = Path(str(origin.get("features") or origin.get("scans") or "")).suffix.lower()
    ending = ending if ending in LABELED else ".npy"
    words = ["bayesharm", "harmonize", view.folder, *_data(view), "--out", f"harmonized{ending}"]
    return shlex.join([*words, "--sd", f"harmonized_sd{ending}"])


def fit_command(view: RunView) -> str:
    """Return the command that fits the same model to the same data."""
    run, spec = view.posterior.run, view.posterior.spec
    origin = run.get("data") or {}
    model = package_model(spec)
    words = ["bayesharm", "fit", *_data(view), "--model", OWN_MODEL if model is None else model.name]
    for name, (option, usual) in READING_OPTIONS.items():
        if origin.get(name, usual) != usual:
            words += [option, str(origin[name])]
    if model is not None:
        words += _model_options(spec, model)
    if accepted := dict.fromkeys(found["code"] for found in run.get("findings", ()) if found.get("accepted")):
        words += ["--accept", ",".join(accepted)]
    for name, value in _unusual_settings(view).items():
        if _has_option(name, value):
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join([*words, "--seed", str(run["seed"]), "--out", "run_again"])


def own_model(view: RunView) -> str:
    """Return the ``model.toml`` of a run whose model is not in the package, with the choices of its fit; else nothing."""
    spec = view.posterior.spec
    if package_model(spec) is not None:
        return ""
    lines = model_toml(spec, spec.name).splitlines()
    return "\n".join(line for line in lines if line and not line.startswith("#"))


def remarks_on_fit(view: RunView) -> tuple[str, ...]:
    """Say what the user must do besides :func:`fit_command` to repeat the fit."""
    remarks = []
    if package_model(view.posterior.spec) is None:
        remarks.append(
            f"The model {view.posterior.spec.name} is not one of this version of the package: save the second text as "
            f"{OWN_MODEL}/model.toml. It contains the choices of the fit, such as its covariates."
        )
    if not view.posterior.run.get("data"):
        remarks.append("The data of the fit were not read from files: scans.csv and features.npy stand for them.")
    if others := {name: value for name, value in _unusual_settings(view).items() if not _has_option(name, value)}:
        given = ", ".join(f"{name}={value!r}" for name, value in others.items())
        remarks.append(f"Only bayesharm.fit in Python takes these settings of the fit: {given}.")
    return tuple(remarks)


def package_model(spec: ModelSpec) -> ModelSpec | None:
    """Return the model of the package that the options of a fit turned into `spec`; None if there is no such model."""
    if spec.name not in model_names():
        return None
    model = load_model(spec.name)
    return model if _without_options(model) == _without_options(spec) else None


def _without_options(spec: ModelSpec) -> ModelSpec:
    """Return the part of a model that no option of the command changes."""
    plain = [replace(each, name="", by="") if each.is_factor else each for each in spec.families]
    families = tuple(dict.fromkeys(replace(each, slope="time" * bool(each.slope)) for each in plain))
    chosen: dict[str, Any] = dict.fromkeys(("covariates", *MODEL_OPTIONS))
    return replace(spec, families=families, **chosen)


def _model_options(spec: ModelSpec, model: ModelSpec) -> list[str]:
    """Return the options that turn a model of the package into that of the run."""
    words = []
    slopes = {family.slope for family in spec.slopes}  # covariates of the model without being named
    if [name for name in spec.covariates if name not in slopes] != list(model.covariates):
        words += ["--covariates", ",".join(spec.covariates)]
    for name, option in MODEL_OPTIONS.items():
        if (value := getattr(spec, name)) != getattr(model, name):
            words += [option, str(value)]
    if (factors := [family.name for family in spec.factors]) != [family.name for family in model.factors]:
        words += ["--protocol", ",".join(factors)]
    time, usual = (next((each.slope for each in of.slopes if each.by == "participant"), "") for of in (spec, model))
    return [*words, "--time", time] if time != usual else words


def _unusual_settings(view: RunView) -> dict[str, Any]:
    """Return the settings of the fit that are not the default."""
    usual = Settings.from_options({}, view.posterior.spec.has_tails).to_dict()
    return {name: value for name, value in view.posterior.run["settings"].items() if value != usual.get(name)}


def _has_option(name: str, value: Any) -> bool:
    return name in SETTING_OPTIONS and (name != "keep_draws" or value in KEPT)


def _data(view: RunView) -> list[str]:
    """Return the files of the fit, the columns and the options for reading them, as arguments."""
    origin: Mapping[str, Any] = view.posterior.run.get("data") or {"scans": "scans.csv", "features": "features.npy"}
    words = [str(origin[name]) for name in ("scans", "features") if origin.get(name)]
    for pattern in origin.get("select") or ():
        words += ["--features", str(pattern)]
    for name, column in (origin.get("columns") or {}).items():
        if name in COLUMN_OPTIONS:
            words += [COLUMN_OPTIONS[name], str(column)]
    for name, option in DERIVATIVE_OPTIONS.items():
        if name in origin:
            words += [option, str(origin[name])]
    for key, value in (origin.get("entities") or {}).items():
        words += ["--entity", f"{key}={value}"]
    return words
