"""Words of a report for numbers: names of sources, estimates with intervals, probabilities."""

from __future__ import annotations

import re

import pandas as pd

from bayesharm.analysis.units import describe_slopes
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


def named(view: RunView, label: object) -> str:
    """Return the words for a source of variation, with its diagnosis."""
    source, group = view.scales.get(str(label), Scale(str(label)))
    words = SOURCES | describe_slopes(view.posterior)
    return words.get(source, str(label)) + (f" of {group}" if group and source in words else "")


def removed(view: RunView) -> str:
    """Return the words for the effect that harmonizing removes."""
    return SOURCES.get(view.removed_effect, view.removed_effect)


def not_in_noise(view: RunView) -> str:
    """Name the differences between the harmonized scans of a traveler that are not noise; empty without any."""
    spec = view.posterior.spec
    changes = sorted({family.slope for family in spec.slopes})
    parts = [f"changes with {', '.join(changes)}"] if changes else []
    parts += ["covariates that differ between a traveler's scans"] * bool(spec.covariates or spec.formula)
    parts += ["gains of the scanners"] * (spec.gain == "scanner")
    return listed(parts, 3) if parts else ""


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
