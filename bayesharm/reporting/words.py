"""Words of a report for numbers: names of sources, estimates with intervals, probabilities."""

from __future__ import annotations

import re

import pandas as pd

from bayesharm.analysis.units import describe_slopes, slope_columns
from bayesharm.errors import listed
from bayesharm.model.labels import Scale
from bayesharm.model.spec import Family
from bayesharm.reporting.run_view import RunView

WELL_SUPPORTED, LIKELY = 0.95, 0.8  # probabilities above which an order is called so
MOSTLY_PRIOR = 0.5  # share of information from the data below which an estimate rests mostly on the prior
SOURCES = {
    "measurement": "measurement bias", "sampling": "sampling bias", "disorder": "disorder effects",
    "participant": "differences between people", "noise": "noise", "site": "site effects", "covariate": "covariates",
}  # fmt: skip
SINGULAR = ("measurement bias", "sampling bias", "noise", "change of")  # the first words of sources; others are plural
LITTLE_FOUND = (
    "The estimated biases are smaller than their uncertainty: harmonizing removes less than half of the variance between "
    "scanners."
)


def named(view: RunView, label: object) -> str:
    """Return the words for a source of variation, with its diagnosis."""
    source, group = view.scales.get(str(label), Scale(str(label)))
    names = (view.removed_effect, *(family.name for family in view.posterior.spec.families))
    words = {name: f"{name} effects" for name in names} | SOURCES | describe_slopes(view.posterior)
    return words.get(source, str(label)) + (f" of {group}" if group and source in words else "")


def verb(words: str, plural: str = "are", singular: str = "is") -> str:
    """Return the form of a verb after the words for a source of variation."""
    return singular if words.lower().startswith(SINGULAR) else plural


def removed(view: RunView) -> str:
    """Return the words for the effect that harmonizing removes."""
    return named(view, view.removed_effect)


def includes_people(view: RunView) -> bool:
    """Return whether the removed effect includes differences between people: the model has no effects of their sites."""
    spec = view.posterior.spec
    has_sites = any(family.by == "population" or "site" in family.columns for family in spec.families)
    return spec.participants == "all" and not has_sites


def slope_of_removed(view: RunView) -> str:
    """Return the column on which the removed effect depends; empty if it depends on none."""
    return next((each.slope for each in view.posterior.spec.slopes if each.name == view.removed_effect), "")


def on_removed_slope(view: RunView) -> list[str]:
    """Say where numbers on the removed effect hold, if it depends on a column."""
    return [
        f"The {removed(view)} {verb(removed(view), 'depend', 'depends')} on {each.column}. Numbers and figures of this "
        f"report hold at its mean, {each.center:.4g}; harmonizing subtracts the value at the {each.column} of each scan."
        for each in slope_columns(view.posterior).values()
        if each.family == view.removed_effect
    ]


def on_slopes(view: RunView) -> list[str]:
    """Say which effects depend on a column."""
    estimated = [family for family in estimated_families(view) if family.slope]
    columns = dict.fromkeys(family.slope for family in estimated)
    return [
        f"{capitalized(listed([named(view, each.name) for each in estimated if each.slope == column], 9))} depend on "
        f"{column}, with an intercept and a slope for each level."
        for column in columns
    ]


def not_in_noise(view: RunView) -> str:
    """Name the differences between the harmonized scans of a traveler that are not noise; empty without any."""
    spec = view.posterior.spec
    changes = sorted({family.slope for family in spec.slopes})
    parts = [f"changes with {', '.join(changes)}"] if changes else []
    parts += ["covariates"] * bool(spec.covariates or spec.formula)
    parts += ["gains of the scanners"] * (spec.gain == "scanner")
    own = [family.name for family in estimated_families(view) if family.columns and not family.component_of]
    return listed([*parts, *(named(view, name) for name in own)], 9) if parts or own else ""


def on_tails(view: RunView) -> list[str]:
    """Say of which values the size of the noise is, with Student-t noise."""
    if not view.posterior.spec.has_tails:
        return []
    return [
        "The size and the share of noise are those of good values, whose noise is Gaussian. The tails are left out: the "
        "noise of all values is larger."
    ]


def estimated_families(view: RunView) -> list[Family]:
    """Return the families of effects that this study estimates: others have no levels, or are part of the noise."""
    estimated = {scale.family for scale in view.scales.values()}
    return [family for family in view.posterior.spec.families if family.name in estimated]


def capitalized(words: str) -> str:
    """Return a sentence that starts with a capital."""
    return f"{words[0].upper()}{words[1:]}"


def estimate(row: pd.Series, name: str) -> str:
    """Format an estimate with its 90% interval."""
    return f"{row[name]:#.3g} ({row[f'{name}_q05']:#.3g} to {row[f'{name}_q95']:#.3g})"


def percent(probability: float) -> str:
    """Format a probability."""
    return "above 99.9%" if probability > 0.999 else "below 0.1%" if probability < 0.001 else f"{probability:.1%}"


def support(probability: float) -> str:
    """Express a probability as a predicate."""
    words = (
        "is certain under the model" if probability > 0.999
        else "is well supported" if probability > WELL_SUPPORTED
        else "is likely" if probability > LIKELY
        else "is not settled"
    )  # fmt: skip
    return f"{words} (probability {percent(probability)})"


def count(number: int, noun: str) -> str:
    """Return a number with its noun."""
    plural = {"person": "people"}.get(noun, f"{noun}s")
    return f"{number:,} {noun if number == 1 else plural}"


def shorten_names(names: list[str]) -> list[str]:
    """Remove the words that all names share, if the names stay different."""
    words = [re.split(r"[_./ ]+", name) for name in names]
    common = set.intersection(*map(set, words))
    short = [" ".join(word for word in each if word not in common) for each in words]
    return short if len(set(short)) == len(names) else names
