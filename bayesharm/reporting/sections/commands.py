"""The commands that repeat a run, and that harmonize with it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from bayesharm.fitting.settings import Settings
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
MODEL_OPTIONS = {
    "covariates": "--covariates", "formula": "--formula", "gain": "--gain", "noise_weight": "--noise-weight",
    "feature_scaling": "--feature-scaling", "noise_ratio": "--noise-ratio", "likelihood": "--likelihood",
    "reference": "--reference",
}  # fmt: skip
SETTING_OPTIONS = {"preview", "chains", "draws", "target_ess", "block_size", "dtype", "keep_draws"}


def harmonize_command(view: RunView) -> str:
    """Return the command that harmonizes the data of the fit."""
    words = ["bayesharm", "harmonize", view.folder, *_data(view), "--out", "harmonized.npy", "--sd", "harmonized_sd.npy"]
    return shlex.join(words)


def fit_command(view: RunView) -> str:
    """Return the command that fits the same model to the same data; options that cannot be told from a run are left out."""
    run, spec = view.posterior.run, view.posterior.spec
    origin = run.get("data") or {}
    words = ["bayesharm", "fit", *_data(view), "--model", spec.name]
    for name, (option, usual) in READING_OPTIONS.items():
        if origin.get(name, usual) != usual:
            words += [option, str(origin[name])]
    for name, option in MODEL_OPTIONS.items():
        value = getattr(spec, name)
        if value != _default(name):
            words += [option, ",".join(value) if isinstance(value, tuple) else str(value)]
    usual_settings = {field.name: field.default for field in fields(Settings)}
    for name, value in run["settings"].items():
        if name in SETTING_OPTIONS and value != usual_settings.get(name) and not _with_tails(view, name):
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join([*words, "--seed", str(run["seed"]), "--out", "run_again"])


def _default(name: str) -> Any:
    from bayesharm.model.spec import ModelSpec

    return next(field.default for field in fields(ModelSpec) if field.name == name)


def _with_tails(view: RunView, name: str) -> bool:
    return view.posterior.spec.has_tails and name == "target_ess"


def _data(view: RunView) -> list[str]:
    """Return the files of the fit and the columns, as arguments."""
    origin: Mapping[str, Any] = view.posterior.run.get("data") or {}
    words = [str(origin.get("scans", "scans.csv"))]
    if not origin or origin.get("features"):
        features = origin.get("features", "features.npy")
        words += [str(part) for part in (features if isinstance(features, list) else [features])]
    select = origin.get("select") or []
    for pattern in [select] if isinstance(select, str) else select:
        words += ["--features", str(pattern)]
    for name, column in (origin.get("columns") or {}).items():
        if name in COLUMN_OPTIONS:
            words += [COLUMN_OPTIONS[name], str(column)]
    return words
