"""The verdict on a study in sentences: what it can and cannot separate, how precisely, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bayesharm.data.finding import Finding
from bayesharm.errors import listed
from bayesharm.study_check.confounding import CLEARLY, LITTLE
from bayesharm.study_check.counts import Counts
from bayesharm.study_check.links import Links
from bayesharm.study_check.precision import INSEPARABLE, Precision
from bayesharm.study_check.recommendation import Recommendation

SEPARATED, PARTLY = 1.25, 2.0  # sd of an effect over its sd if the scanners were known: limits of the words
NEARLY_LEAST = 0.98  # of the largest expected sd: scanners that are named as the least certain
HALVED, LITTLE_GAIN = 0.55, 0.9


@dataclass(frozen=True)
class Verdict:
    """The verdict on a study.

    Attributes
    ----------
    separable : {'yes', 'partly', 'no'}
        Whether measurement bias can be told apart from sampling bias.
    model, why : str
        The model that suits the study, and the reason.
    sentences : tuple of str
        What the study can and cannot separate, how precisely, and what would help; the most important first.
    advice : tuple of str
        The model to use and why, covariates and protocol factors that the table offers, and the number of findings.
    short : tuple of str
        One to four of these sentences, for the start of a fit.
    command : str
        The next command, or the next line of Python.
    """

    separable: str
    model: str
    why: str
    sentences: tuple[str, ...]
    advice: tuple[str, ...]
    short: tuple[str, ...]
    command: str


def on_separation(counts: Counts, links: Links) -> tuple[str, list[str]]:
    """Say whether measurement bias can be told apart from sampling bias: `yes`, `partly` or `no`, and sentences."""
    n_scanners, n_travelers = counts.totals["scanners"], counts.totals["travelers"]
    groups = links.components
    if len(groups) == n_scanners:
        return "no", [
            "Measurement bias cannot be told apart from sampling bias: nobody was scanned on two scanners. A difference "
            "between scanners may come from the scanners or from their people, and removing it removes both."
        ]
    travelers = f"{n_travelers} traveler{'s' if n_travelers > 1 else ''}"
    sentences = _on_bridges(links)
    if len(groups) == 1:
        link = f"{travelers} link{'' if n_travelers > 1 else 's'} all {n_scanners} scanners"
        return "yes", [f"Measurement bias can be told apart from sampling bias: {link}.", *sentences]
    linked = [f"among {listed(group)}" for group in groups if len(group) > 1]
    apart = f"No traveler links {_named_groups(groups)}."
    return "partly", [
        f"Measurement bias can be told apart from sampling bias only {listed(linked)}. {apart} A difference between "
        "scanners that no traveler links may come from the scanners or from their people.",
        *sentences,
    ]


def on_doubtful_people() -> list[str]:
    """Say on what the separation rests where identifiers may stand for several people."""
    return [
        "Check the identifiers first (people-unlike, below): if sites have numbered their own people alike, nobody has "
        "traveled, and the next sentence is wrong."
    ]


def _named_groups(groups: tuple[tuple[str, ...], ...]) -> str:
    """Name the groups that are not linked: the smaller ones by name."""
    first, *rest = groups
    names = [listed(group, 4) if len(group) == 1 else f"the group of {listed(group, 4)}" for group in rest]
    return f"{listed(names)} to {'the others' if len(first) > 3 or len(rest) > 1 else listed(first)}"


def _on_bridges(links: Links) -> list[str]:
    """Name travelers without whom scanners would be cut off."""
    by_cut: dict[tuple[str, ...], list[str]] = {}
    for person, cut in links.bridges.items():
        by_cut.setdefault(cut, []).append(person)
    sentences = [
        f"Only traveler{'s' * (len(people) > 1)} {listed(people)} link{'s' * (len(people) == 1)} {listed(cut)} to the others"
        ": an unusual visit would pass for the bias of a scanner."
        for cut, people in list(by_cut.items())[:3]
    ]
    if len(by_cut) > 3:
        sentences.append(f"{len(by_cut) - 3} more groups of scanners hang by one traveler.")
    return sentences


def on_disorder(counts: Counts, precision: Precision | None, reference: str) -> list[str]:
    """Say whether disorder effects can be told apart from scanner effects; no sentence without patients."""
    if precision is None or precision.diagnoses.empty:
        return []
    where = {name: counts.diagnoses.index[counts.diagnoses[name] > 0] for name in counts.diagnoses}
    alone = {name: seen[0] for name, seen in where.items() if name != reference and len(seen) == 1}
    sentences = [
        f"{name} was scanned on {scanner} only: its effect cannot be told apart from the sampling bias of that site."
        for name, scanner in alone.items()
    ]
    rows = precision.inflation
    rows = rows[(rows.of == "disorder") & (rows.by == precision.effect)]
    if len(rows):
        inflation, several = rows.largest.iloc[0], len(precision.diagnoses) > 1
        effects = f"The effect{'s' if several else ''} of {listed(map(str, precision.diagnoses.index))}"
        if inflation > INSEPARABLE:
            return [
                f"{effects} cannot be told apart from the scanners: neither travelers nor other people link the scanners of "
                f"{rows.level.iloc[0]} to the rest."
            ]
        factor = float(np.sqrt(inflation))
        can = "can" if factor < SEPARATED else "can partly" if factor < PARTLY else "can hardly"
        worst = f"at most, for {rows.level.iloc[0]}, " if several else ""
        sentences.append(
            f"{effects} {can} be told apart from the scanners (the sd is {worst}{factor:.2f} times what it would be if the "
            "scanner effects were known)."
        )
    return sentences


def on_confounding(confounding: pd.DataFrame) -> list[str]:
    """Name what goes with the scanner, or say that nothing does."""
    table = confounding[confounding["with"] == "scanner"]
    if table.empty:
        return []
    strong = table[table.share >= CLEARLY]
    if strong.empty:
        words = "Spread evenly over scanners" if table.share.max() < LITTLE else "Hardly confounded with the scanner"
        share = f"at most {max(table.share.max(), 0.01):.0%} of the variance lies between scanners"
        return [f"{words}: {listed(table.of)} ({share})."]
    named = listed([f"{row.of} ({row.share:.0%})" for row in strong.itertuples()])
    return [f"Confounded with the scanner: {named}, with the share of the variance that lies between scanners."]


def on_precision(precision: Precision | None) -> list[str]:
    """Say how precisely the scanner effects will be known."""
    if precision is None or "expected_sd" not in precision.scanners:
        return []
    table = precision.scanners
    sd = table.expected_sd
    least = table.index[sd >= NEARLY_LEAST * sd.max()]
    named = f" Least certain: {listed(map(str, least), 3)}." if len(least) < len(table) else ""
    effect = {"measurement": "measurement bias"}.get(precision.effect, f"{precision.effect} effect")
    spread = f" ({sd.min():.2f} to {sd.max():.2f})" if sd.max() > 1.05 * sd.min() else ""
    return [
        f"Expected: the {effect} of a scanner will be known to ± {np.sqrt((sd**2).mean()):.2f} sd of a feature{spread}; "
        f"before the data it is ± {table.prior_sd.mean():.2f}. {table.from_data.mean():.0%} of the information comes from "
        f"the data.{named}"
    ]


def on_gains(gains: pd.DataFrame | None, separable: str) -> list[str]:
    """Say what more travelers would add."""
    if gains is None or gains.empty:
        return []
    best = gains.iloc[0]
    both, ratio = f"{best['first']} and {best['second']}", best.sd_2 / best.sd_0
    if separable != "yes":
        if best.to_link < 0:
            return []
        people = "1 person" if best.to_link <= 1 else f"{best.to_link} people"
        others = " The other scanners need such links as well." if separable == "no" and len(gains) > 1 else ""
        return [
            f"What would help most: travelers between {both}. If {people} had one scan on each, these scans alone would "
            f"give half of the information on the difference between the two scanners.{others}"
        ]
    change = f"would halve the sd of their difference (± {best.sd_0:.2f} to ± {best.sd_2:.2f} sd of a feature)"
    if ratio > HALVED:
        change = f"would lower the sd of their difference by {1 - ratio:.0%} (from ± {best.sd_0:.2f} sd of a feature)"
        change += f", and {best.to_halve} people would halve it" if best.to_halve > 0 else ""
    if ratio > LITTLE_GAIN:
        return [f"A few more travelers would add little: two people on {both}, the best pair, {change}."]
    return [f"What would help most: two more travelers, one scan each on {both}. This {change}."]


def on_model(advice: Recommendation, asked: str, used: str, protocol: Sequence[str], covariates: Sequence[str]) -> list[str]:
    """Name the model to use, and why, and what else the table offers.

    Parameters
    ----------
    advice : Recommendation
    asked, used : str
        The model that the user chose, and that of the numbers and the command.
    protocol, covariates : sequence of str
        Columns of the table that the user did not choose, and could.
    """
    reason = f"{advice.model}, because {advice.why}."
    if asked == advice.model:
        sentences = [f"Model to use: {reason}"]
    else:
        sentences = [f"Model: {asked}, as asked.", *([] if asked == "protocol" else [f"The check recommends {reason}"])]
    sentences += advice.doubts
    if used != asked:
        sentences.append(f"A fit of {asked} would be refused (see below): the numbers are those of {used}.")
    if protocol:
        sentences.append(
            f"The table also describes the scanners ({listed(protocol)}): --model protocol divides measurement bias into "
            "these factors."
        )
    if covariates:
        sentences.append(
            f"The table has {listed(covariates)}: as covariates (see below), their effects cannot be taken for scanner or "
            "sampling bias."
        )
    return sentences


def on_growing_ages(ages: Sequence[str]) -> list[str]:
    """Say what to do with ages that grow with the time of trajectories."""
    return [
        f"The column {name} grows over the scans of a person, like the time: beside it, the effect of time would not be the "
        "change of the population. Make a column of everybody's age at the first scan, such as baseline_age, and name it "
        "with --covariates."
        for name in ages
    ]


def on_findings(findings: Sequence[Finding]) -> list[str]:
    """Count the findings on the data."""
    n_errors = sum(finding.severity == "error" for finding in findings)
    n_caveats = len(findings) - n_errors
    if n_errors:
        them = ("error", "it") if n_errors == 1 else ("errors", "them")
        return [
            f"A fit refuses these data: {n_errors} {them[0]}, listed below. Correct {them[1]} first; the rest of this page "
            "takes the tables as they are."
        ]
    if n_caveats:
        return [f"{n_caveats} finding{'s' if n_caveats > 1 else ''} on the data need{'s' if n_caveats == 1 else ''} a look."]
    return []


def next_command(source: str, options: Mapping[str, Any]) -> str:
    """Return the command, or without a source the line of Python, that fits the study.

    Parameters
    ----------
    source : str
        Arguments that stand for the dataset.
    options : mapping
        `model`, `reference`, `time`, `covariates`, `formula`, `protocol` and `noise_weight`.
    """
    lists = {name: options[name] for name in ("covariates", "protocol") if options[name]}
    texts = {name: options[name] for name in ("formula", "time", "reference", "noise_weight") if options[name]}
    if source:
        words = [f"bayesharm fit {source} --model {options['model']}"]
        words += [f"--{name} {shlex.quote(','.join(values))}" for name, values in lists.items()]
        words += [f"--{name.replace('_', '-')} {shlex.quote(value)}" for name, value in texts.items()]
        return " ".join([*words, "--seed 1 --out run/"])
    arguments = [f'"{options["model"]}"', *(f"{name}={value!r}" for name, value in (lists | texts).items())]
    return f'bayesharm.fit(dataset, {", ".join(arguments)}, seed=1, out="run")'
