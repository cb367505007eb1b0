"""The model that suits a study, chosen from its scans table: the rule behind ``--model auto`` and ``bayesharm check``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from bayesharm.data.scans import find_travelers
from bayesharm.data.screening.times import constant_ages, find_wrong_time, is_in_other_units
from bayesharm.data.screening.words import ages_in_years, is_age
from bayesharm.errors import listed
from bayesharm.model.catalog import load_model, model_names
from bayesharm.model.spec import ModelSpec

LONGITUDINAL = "longitudinal"
TIMES = ("time", "years")  # columns that count years from any day, unlike ages
MIN_FOLLOWED = 10  # people scanned over time: fewer do not show how trajectories differ
MIN_TIME = 0.5  # years between the first and the last scan of a person: changes within weeks are noise
ROUNDING = 1e-6  # years
MIN_YEARS = 1.0  # between the ages of a person, which may be whole years: a birthday between two visits is less


@dataclass(frozen=True)
class ModelChoice:
    """The model that suits a study.

    Attributes
    ----------
    model : str
    why : str
        The reason, a clause.
    doubts : tuple of str
        Sentences on what in the design speaks for another model.
    time : str
        Column on which the trajectories of the model depend; empty for a model without trajectories.
    """

    model: str
    why: str
    doubts: tuple[str, ...] = ()
    time: str = ""

    @property
    def sentences(self) -> tuple[str, ...]:
        """The model and the reason in one sentence, and the doubts."""
        return f"Model {self.model}, chosen because {self.why}.", *self.doubts


def choose_model(
    scans: pd.DataFrame, time: str | None = None, catalog: Mapping[str, ModelSpec] | None = None
) -> ModelChoice:
    """Choose the model for a study by who traveled, and who was scanned over time.

    Parameters
    ----------
    scans : DataFrame
        Canonical columns as in :class:`bayesharm.data.dataset.Dataset`.
    time : str, optional
        Column that the user named as the time of trajectories.
    catalog : mapping, optional
        Models to choose from, by name; by default those of the package.
    """
    catalog = {name: load_model(name) for name in model_names()} if catalog is None else catalog
    if time:
        return ModelChoice(LONGITUDINAL, f"--time names the column {time}", time=time)
    over_time, doubts = _look_over_time(scans, catalog.get(LONGITUDINAL))
    if over_time:
        return over_time
    travels = find_travelers(scans)
    n_travelers = scans.participant_id[travels].nunique()
    n_others = scans.participant_id[~travels].nunique()
    if scans.groupby("participant_id").scanner.nunique().max() < 2:
        if n_travelers:
            marked = f"{n_travelers} {'person is' if n_travelers == 1 else 'people are'} marked as traveling"
            doubts.append(f"{marked}, but nobody was scanned on two scanners.")
        if scans.site.nunique() < 2 <= scans.scanner.nunique():
            doubts.append(
                "Everybody was recruited at one site: where chance assigned people to scanners, the effects of this model "
                "are measurement bias."
            )
        why = "nobody traveled, and so measurement and sampling bias of a scanner can only be estimated together"
        return ModelChoice("cohort", why, tuple(doubts))
    if not n_others:
        if "diagnosis" in scans and scans.diagnosis.nunique() > 1:
            doubts.append("The diagnoses of travelers differ: traveling_and_cohort estimates their effects, this model not.")
        return ModelChoice("traveling", f"everybody traveled ({n_travelers} people)", tuple(doubts))
    why = f"{n_travelers} {'person' if n_travelers == 1 else 'people'} traveled and {n_others} did not"
    if unvisited := sorted(set(scans.scanner) - set(scans.scanner[travels])):
        why += f", among them everybody on {listed(unvisited)}"
    return ModelChoice("traveling_and_cohort", why, tuple(doubts))


def _look_over_time(scans: pd.DataFrame, model: ModelSpec | None) -> tuple[ModelChoice | None, list[str]]:
    """Choose the longitudinal model if the study is longitudinal; also return doubts."""
    own = [] if model is None else [family.slope for family in model.slopes]
    times = [name for name in map(str, scans.columns) if name in (*TIMES, *own) or is_age(name)]
    # a contradiction in a few people does not change the model: the fit refuses it
    wrong = {
        name: finding
        for name in times
        if (finding := find_wrong_time(scans, name)) is not None and is_in_other_units(scans, name)
    }
    choice, doubts = _choose_time(scans, model, own, [name for name in times if name not in wrong])
    unfit = [f"{each.what} Found: {each.got}. {LONGITUDINAL} needs years: {each.do}." for each in wrong.values()]
    if choice and not is_age(choice.time):
        unfit += [
            f"{age} does not change over the scans of a person: bayesharm takes it for the age at the first scan, and "
            f"{choice.time} for years."
            for age in constant_ages(scans)[:1]
        ]
    return (choice and replace(choice, doubts=(*choice.doubts, *unfit))), [*doubts, *unfit]


def _choose_time(
    scans: pd.DataFrame, model: ModelSpec | None, own: Sequence[str], times: Sequence[str]
) -> tuple[ModelChoice | None, list[str]]:
    """Choose the longitudinal model if a time shows that the study is longitudinal; also return doubts."""
    n_followed = {name: _count_followed(scans, name) for name in times}
    enough = [name for name in times if n_followed[name] >= MIN_FOLLOWED]
    n_repeated = int((scans.participant_id.value_counts() > 1).sum())
    if not enough:
        n_again = max((_count_followed(scans, name, 0.0) for name in times if not is_age(name)), default=0)
        if n_again < MIN_FOLLOWED:
            return None, []
        soon = f"{n_again} of {n_repeated} people with several scans came back within half a year"
        return None, [f"{soon}: too soon for {LONGITUDINAL}."]
    n_missing = {name: int((~np.isfinite(scans[name].to_numpy(float))).sum()) for name in enough}
    complete = [name for name in enough if not n_missing[name]]
    column = next((name for name in own if name in complete), max(complete or enough, key=lambda name: n_followed[name]))
    found = (
        f"{n_followed[column]} of {n_repeated} people with several scans were scanned over up to "
        f"{_spans(scans, column).max():.3g} years (column {column}{'' if is_age(column) else ', in years'})"
    )
    if model is None:
        return None, [f"{found}: what changed in them counts as noise, or as bias of the scanners."]
    if 2 * n_followed[column] < n_repeated:
        return None, [f"{found}: --model {LONGITUDINAL} --time {column} gives each of them a trajectory."]
    if not complete:
        gaps = f"but {column} is missing for {n_missing[column]} of {len(scans)} scans"
        return None, [f"{found}, {gaps}: {LONGITUDINAL} needs it for all."]
    unused = tuple(
        f"{name} is missing for {n_missing[name]} of {len(scans)} scans: {column} is the time instead."
        for name in enough
        if n_missing[name]
    )
    return ModelChoice(LONGITUDINAL, found, unused, column), []


def _count_followed(scans: pd.DataFrame, column: str, min_time: float = MIN_TIME) -> int:
    """Count the people whose time differs by at least `min_time` between scans, or whose age by more than a year."""
    if not pd.api.types.is_numeric_dtype(scans[column]):
        return 0
    apart = _spans(scans, column)
    return int(((apart > MIN_YEARS) if is_age(column) else (apart > 0) & (apart >= min_time - ROUNDING)).sum())


def _spans(scans: pd.DataFrame, column: str) -> pd.Series:
    """Return the years between the first and the last scan of each person."""
    years = ages_in_years(column, scans[column]) if is_age(column) else scans[column].to_numpy(float)
    by_person = pd.Series(years, scans.index).groupby(scans.participant_id)
    return by_person.max() - by_person.min()
