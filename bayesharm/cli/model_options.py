"""Options that replace a choice of the model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from bayesharm.cli.options import COLUMNS_PANEL, text


def model_choice(option: str, help: str, default: str) -> Any:
    """Return an option that replaces a choice of the model; `default` is the usual choice of models."""
    return typer.Option(option, show_default=False, help=f"{help} [dim]Default: as in the model ({default}).[/dim]")


FeatureScalingOption = Annotated[
    Literal["per_feature", "common"] | None,
    model_choice(
        "--feature-scaling",
        "Unit in which effects are compared across features: the standard deviation of each feature (per_feature; for "
        "any mixture of measures), or one standard deviation for all features (common; for features of one type, such "
        "as connectivity edges).",
        "per_feature",
    ),
]
LikelihoodOption = Annotated[
    Literal["gaussian", "student-t"] | None,
    model_choice(
        "--likelihood",
        "Noise of the scans: gaussian, or student-t with heavy tails, so that bad scans and values hardly count. With "
        "student-t there are no previews, and compare, populations and harmonize --new-scanners adapt refuse the run.",
        "gaussian",
    ),
]
GainOption = Annotated[
    Literal["none", "scanner"] | None,
    model_choice(
        "--gain",
        "scanner: each scanner has a gain, a factor on differences between people, learned from travelers. none: "
        "scanners only shift values and add noise.",
        "none",
    ),
]
NoiseRatioOption = Annotated[
    Literal["homogeneous", "scanner", "scanner-feature"] | None,
    model_choice(
        "--noise-ratio",
        "scanner: each scanner has a noise variance ratio, shared by all features. scanner-feature: each feature has "
        "its own around it; slower. homogeneous: the same on all scanners.",
        "scanner",
    ),
]
NoiseWeightOption = Annotated[
    str | None,
    text(
        "--noise-weight",
        "COLUMN",
        "Column with the relative noise variance of each scan (larger: noisier), such as one over its number of volumes.",
        COLUMNS_PANEL,
    ),
]
