"""The catalog of models: names, specifications, cards and reference results."""

from __future__ import annotations

import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from bayesharm.errors import ModelError
from bayesharm.model.model_file import read_model
from bayesharm.model.spec import ModelSpec

AUTO = "auto"  # stands for the model that suits the study (:mod:`bayesharm.model.automatic`)


def load_reference(model: str) -> dict[str, Any]:
    """Load a model's posterior summaries on the reference study, with their Monte-Carlo errors and the checks made."""
    return json.loads((models_folder() / model / "reference.json").read_text(encoding="utf-8"))


def load_calibration(model: str) -> dict[str, Any] | None:
    """Load the coverage of a model's 90% intervals in simulated studies; None for a model that was not tested.

    Returns
    -------
    dict
        `datasets`, their number; `date`; `coverage`, the share of the intervals that contain the true value, by kind.
    """
    path = models_folder() / model / "calibration.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def models_folder() -> Path:
    """Find the folder of model folders: inside the installed package, or beside it in a checkout.

    Raises
    ------
    ModelError
        Neither exists: the installation is broken.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "models", package.parent / "models"):
        if folder.is_dir():
            return folder
    raise ModelError(
        "The models folder is missing.",
        expected=f"a folder {package / 'models'}",
        do="install bayesharm again",
    )


def model_names() -> list[str]:
    """Return the names of the models in the package, sorted."""
    return sorted(path.parent.name for path in models_folder().glob("*/model.toml"))


def load_model(name: str) -> ModelSpec:
    """Read a model by name, or from a folder with a ``model.toml``.

    Parameters
    ----------
    name : str
        One of :func:`model_names`, or a path to a folder of your own.

    Raises
    ------
    ModelError
        The model does not exist, or is malformed; all problems at once.
    """
    return read_model(model_folder(name) / "model.toml")


def model_folder(name: str) -> Path:
    """Find the folder of a model, by name or path as for :func:`load_model`.

    Raises
    ------
    ModelError
        The model does not exist.
    """
    if name == AUTO:
        raise ModelError(
            f"{AUTO!r} is not a model: it stands for the model that suits a study.",
            got=f"{AUTO!r} without a study",
            expected=f"one of {', '.join(model_names())}, or a folder with a model.toml",
            do="see which model suits a study: bayesharm check SCANS",
        )
    inside, outside = models_folder() / name, Path(name)
    folder = inside if (inside / "model.toml").is_file() else outside
    if not (folder / "model.toml").is_file():
        near = get_close_matches(name, model_names(), n=1)
        raise ModelError(
            f"There is no model {name!r}.",
            got=f"neither a model of the package nor a file {folder / 'model.toml'}",
            expected=f"one of {', '.join(model_names())}, or a folder with a model.toml",
            do=f"did you mean {near[0]!r}?" if near else "list the models with: bayesharm models",
        )
    return folder


def model_card(name: str) -> str:
    """Return the model's ``card.md``: equations, estimated effects, conditions of identification, when not to use it.

    Raises
    ------
    ModelError
        The model does not exist, or has no card.
    """
    path = model_folder(name) / "card.md"
    if not path.is_file():
        raise ModelError(
            f"The model {name!r} has no card.",
            got=f"no file {path}",
            expected="a card.md beside model.toml",
            do="see the effects of the model in its model.toml",
        )
    return path.read_text(encoding="utf-8")
