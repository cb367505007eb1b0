"""Sentences on what the data of a study do not identify."""

from __future__ import annotations

import pandas as pd

from bayesharm.errors import listed
from bayesharm.model.design import Design

MIN_CONTRACTION = 0.5  # below, the prior contributes more than half of the posterior precision of a contrast

# What the difference between two scanners rests on, best first.
TRAVELERS, POPULATION = "travelers", "shared population"
SAMPLING, PARTICIPANTS = "prior of sampling bias", "prior of participant effects"
_EXPLANATIONS = {
    POPULATION: "is estimated from different people of one population, not from the same people",
    SAMPLING: "rests on the prior of sampling bias",
    PARTICIPANTS: "rests on the prior of participant effects, which assumes that the people scanned there are comparable",
}


def on_separation(design: Design, components: tuple[tuple[str, ...], ...]) -> list[str]:
    """Whether measurement and sampling bias are separable; no sentence if they are."""
    effect = f"the {design.spec.removed_effect} effect of a scanner contains both"
    if len(components) == len(design.scanners):
        if _separates(design):
            return [
                "Nobody traveled between scanners: the data do not separate measurement from sampling bias, only their "
                "priors do."
            ]
        return [
            f"Nobody traveled between scanners: measurement and sampling bias are not separable; {effect}, and removing it "
            "also removes real differences between populations."
        ]
    if not _separates(design):
        return [
            f"This model does not separate measurement from sampling bias: {effect}. Since some people traveled, the model "
            "traveling_and_cohort can separate them."
        ]
    return []


def _separates(design: Design) -> bool:
    """Whether the model has a term for sampling bias, or uses only people without any."""
    return design.spec.participants == "travelers" or any(f.by == "population" for f in design.spec.families)


def on_components(design: Design, components: tuple[tuple[str, ...], ...], pairs: pd.DataFrame) -> list[str]:
    """Scanners that no traveler links to the largest group, and what their difference from the others rests on."""
    if not _separates(design) or len(components) == len(design.scanners):
        return []  # covered by `on_separation`
    sentences: list[str] = []
    single: dict[str, list[str]] = {reason: [] for reason in _EXPLANATIONS}
    for group in components[1:]:
        crossing = pairs[pairs["first"].isin(group) != pairs["second"].isin(group)]
        best = next(reason for reason in _EXPLANATIONS if reason in set(crossing.rests_on))
        if len(group) == 1:
            single[best] += group
            continue
        others = [scanner for scanner in design.scanners if scanner not in group]
        rest = listed(others) if len(others) <= 3 else f"the other {len(others)} scanners"
        sentences.append(f"No traveler links {listed(group)} to {rest}: the difference between them {_EXPLANATIONS[best]}.")
    for reason, names in single.items():
        if names:
            difference = f"{'its' if len(names) == 1 else 'their'} difference from the others"
            sentences.append(
                f"No traveler links {listed(names)} to any other scanner: {difference} {_EXPLANATIONS[reason]}."
            )
    return sentences


def on_scanners(scanners: pd.DataFrame) -> list[str]:
    """Scanners with a single traveler, or a single scan."""

    def one(what: str, names: pd.Index) -> str:
        return f"{listed(names)}: only one {what}{' each' if len(names) > 1 else ''}"

    sentences = []
    names = scanners.index[(scanners.n_travelers == 1) & scanners.component.duplicated(keep=False)]
    if len(names):
        visit = "so the effect of that visit cannot be separated from the effect of the scanner"
        sentences.append(f"{one('traveler', names)}, {visit}.")
    names = scanners.index[scanners.n_scans == 1]
    if len(names):
        sentences.append(f"{one('scan', names)}, so the noise of the scanner is estimated from that scan alone.")
    return sentences


def on_gains(design: Design) -> list[str]:
    """Scanners whose gain is not known, in a model with gains."""
    unknown = [name for name, is_known in zip(design.scanners, design.gain_is_known, strict=True) if not is_known]
    if design.spec.gain == "none" or not unknown:
        return []
    if len(unknown) == len(design.scanners):
        return ["Nobody traveled between scanners: the gains of scanners are not known and are taken as 1."]
    return [f"No traveler with several scans visited {listed(unknown)}: the gain there is not known and is taken as 1."]


def on_contraction(contrasts: pd.DataFrame) -> list[str]:
    """Levels about which the prior says more than the data, group by group."""
    sentences = []
    weak = contrasts[contrasts.contraction < MIN_CONTRACTION]
    weak = weak.round({"contraction": 9}).sort_values("contraction", kind="stable")
    for group in weak.group.unique():
        levels = weak[weak.group == group]
        first, *others = (f"{level} ({share:.0%})" for level, share in zip(levels.level, levels.contraction, strict=True))
        named = listed([f"{first[:-1]} from the data)", *others])
        subject, verb = ("estimates", "rest") if others else ("estimate", "rests")
        sentences.append(f"{group}: the {subject} of {named} {verb} more on the prior than on the data.")
    return sentences
