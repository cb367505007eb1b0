"""The specification of a model with the choices of the user, and the screening of a study for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from bayesharm.data.dataset import Dataset
from bayesharm.data.finding import Finding
from bayesharm.data.screening.screen import screen
from bayesharm.data.screening.words import is_age, is_elapsed_time
from bayesharm.errors import InputError
from bayesharm.model.automatic import LONGITUDINAL, ModelChoice, choose_model
from bayesharm.model.catalog import AUTO, load_model
from bayesharm.model.formula.basis import contains_line
from bayesharm.model.formula.text import covariate_columns, parse_formula
from bayesharm.model.protocol_factors import name_factors
from bayesharm.model.spec import FEATURE_SCALINGS, GAINS, LIKELIHOODS, NOISE_RATIOS, ModelSpec

# Options of a fit on which its model depends: the parameters of `configure_model`.
MODEL_OPTIONS = (
    "covariates", "formula", "protocol", "reference", "feature_scaling", "gain", "time", "noise_weight", "noise_ratio",
    "likelihood",
)  # fmt: skip


def configure_model(
    model: str | ModelSpec,
    dataset: Dataset | pd.DataFrame,
    *,
    covariates: Sequence[str] = (),
    formula: str = "",
    protocol: Sequence[str] = (),
    reference: str | None = None,
    feature_scaling: str | None = None,
    gain: str | None = None,
    time: str | None = None,
    noise_weight: str | None = None,
    noise_ratio: str | None = None,
    likelihood: str | None = None,
) -> ModelSpec:
    """Return the specification that :func:`bayesharm.fit` uses, with the choices of the user; parameters as there.

    A scans table may stand for the dataset.

    Raises
    ------
    ModelError, InputError
    """
    spec = load_model(model) if isinstance(model, str) else model
    scans = dataset if isinstance(dataset, pd.DataFrame) else dataset.scans
    if covariates:
        spec = replace(spec, covariates=(covariates,) if isinstance(covariates, str) else tuple(covariates))
    if formula:
        spec = replace(spec, formula=formula)
    if spec.formula:
        parse_formula(spec.formula)  # refuses what is wrong whatever the data
    if protocol:
        spec = name_factors(spec, protocol, scans)
    if reference is not None:
        spec = replace(spec, reference=reference)
    if time is not None:
        spec = _with_time(spec, time)
    if noise_weight is not None:
        spec = replace(spec, noise_weight=noise_weight)
    # effects of a family are 0 on average: the mean slope is that of a covariate, or the formula contains it
    slopes = dict.fromkeys(family.slope for family in spec.slopes if family.slope not in spec.covariates)
    missing = [name for name in slopes if not (spec.formula and contains_line(spec.formula, name, scans))]
    spec = replace(spec, covariates=(*spec.covariates, *missing))
    choices = (
        ("feature_scaling", feature_scaling, FEATURE_SCALINGS, "leave it out to divide each feature by its own sd"),
        ("gain", gain, GAINS, "leave it out for the choice of the model"),
        ("noise_ratio", noise_ratio, NOISE_RATIOS, "leave it out for the choice of the model"),
        ("likelihood", likelihood, LIKELIHOODS, "leave it out for the choice of the model"),
    )
    for name, given, known, advice in choices:
        if given is not None:
            if given not in known:
                raise InputError(f"Unknown {name}.", got=repr(given), expected=f"one of {', '.join(known)}", do=advice)
            changes: dict[str, Any] = {name: given}
            spec = replace(spec, **changes)
    return spec


def resolve_model(
    model: str | ModelSpec, scans: pd.DataFrame, time: str | None = None
) -> tuple[str | ModelSpec, tuple[str, ...]]:
    """Return the model that the user named; for `auto` the model that suits the study, and sentences that say so."""
    if model != AUTO:
        return model, ()
    choice = choose_model(scans, time)
    return chosen_spec(choice), choice.sentences


def chosen_spec(choice: ModelChoice) -> ModelSpec:
    """Return the specification of the model that suits a study."""
    spec = load_model(choice.model)
    return _with_time(spec, choice.time) if choice.time else spec


def _with_time(spec: ModelSpec, column: str) -> ModelSpec:
    """Return the model with another column as the time on which its trajectories depend.

    Raises
    ------
    InputError
        The model has no trajectories.
    """
    if not any(family.by == "participant" and family.slope for family in spec.families):
        raise InputError(
            f"The model {spec.name!r} has no trajectories of participants.",
            got=f"time={column!r}",
            expected="a model whose participant effects depend on time",
            do="use --model longitudinal, or leave --time out",
        )
    old = next(family.slope for family in spec.families if family.by == "participant" and family.slope)
    families = tuple(replace(each, slope=column) if each.slope == old else each for each in spec.families)
    return replace(spec, families=families)


def screen_study(
    dataset: Dataset, spec: ModelSpec, accept: Sequence[str] | str = (), time: str | None = None
) -> list[Finding]:
    """Screen a study for the columns that a model uses; see :func:`bayesharm.screen`.

    Parameters
    ----------
    dataset : Dataset
    spec : ModelSpec
    accept : sequence of str
        Codes of errors that become caveats.
    time : str, optional
        Column that the user named as the time of trajectories.
    """
    return screen(dataset, **screened_columns(spec, time), accept=accept)


def screened_columns(spec: ModelSpec, time: str | None = None) -> dict[str, Any]:
    """Return the columns that a model uses, as :func:`bayesharm.screen` takes them."""
    return {
        "covariates": list(covariate_columns(spec.covariates, spec.formula)),
        "factors": [family.by for family in spec.factors],
        "times": trajectory_times(spec, time),
        "noise_weight": spec.noise_weight,
    }


def trajectory_times(spec: ModelSpec, time: str | None = None) -> list[str]:
    """Return the times and ages on which effects of participants and diagnoses depend; no dose, motion or temperature.

    Parameters
    ----------
    spec : ModelSpec
    time : str, optional
        Column that the user named as the time. In the model `longitudinal` the column is a time by any name.
    """
    slopes = dict.fromkeys(family.slope for family in spec.slopes if family.by in ("participant", "diagnosis"))
    return [name for name in slopes if spec.name == LONGITUDINAL or name == time or is_elapsed_time(name) or is_age(name)]
