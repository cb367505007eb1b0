"""The biases of all features, and the scans of travelers in many of them, as numbers of half precision for the page."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from bayesharm.reporting.before_after import BeforeAfter
from bayesharm.reporting.people import PeopleMeans
from bayesharm.reporting.words import MOSTLY_PRIOR
from bayesharm.results.posterior import Posterior

MAX_BIASES = 2_000_000  # bytes of means and sds of biases; more features than fit are left out, smallest biases first
MAX_PEOPLE = 450_000  # bytes of the means of people
MAX_LINES = 60  # people of the chart


def choose_features(result: BeforeAfter) -> np.ndarray:
    """Return the positions of the features that the page has, largest biases first."""
    n_scanners, n_features = result.bias.shape
    size = np.nan_to_num(np.mean(result.bias**2, axis=0))
    order = np.argsort(-size, kind="stable")
    return order[: min(n_features, MAX_BIASES // (4 * n_scanners))]


def choose_people(people: PeopleMeans) -> PeopleMeans:
    """Return the people whom the chart has room for: those on most scanners."""
    n_scanners = np.bincount(people.person, minlength=len(people.people))
    kept = np.sort(np.argsort(-n_scanners, kind="stable")[:MAX_LINES])
    cells = np.isin(people.person, kept)
    person = np.searchsorted(kept, people.person[cells])
    names = [people.people[k] for k in kept]
    of_cells = (each[cells] for each in (people.scanner, people.n_scans, people.weight, people.values))
    return PeopleMeans(names, people.scanners, person, *of_cells)


def pack_features(posterior: Posterior, result: BeforeAfter, units: str) -> dict[str, Any]:
    """Return what the script of the page needs to show any feature.

    Parameters
    ----------
    posterior : Posterior
    result : BeforeAfter
    units : str
        Units of the values of features.

    Returns
    -------
    dict
        Names as text; arrays as base64: ``mean`` and ``sd``, (feature, scanner) in sd of the feature, and the ``values`` of
        people, (feature, cell), for the first features, as float16; ``scale`` and ``center`` of each feature as float32.
    """
    chosen = choose_features(result)
    scales = posterior.scales
    effect = posterior.effect(posterior.spec.removed_effect)
    names = posterior.features
    packed: dict[str, Any] = {
        "names": [names[k] for k in chosen],
        "n_features": len(names),
        "scanners": [str(name) for name in effect["scanner"].values],
        "prior": [bool(share < MOSTLY_PRIOR) for share in effect["contraction"].values],
        "units": units,
        "mean": _half(result.bias[:, chosen].T),
        "sd": _half(result.sd[:, chosen].T),
        "scale": _text(scales["feature_scale"].values[chosen].astype("<f4")),
        "center": _text(scales["center"].values[chosen].astype("<f4")),
        "unsure": [int(k) for k in np.flatnonzero(~scales["converged"].values[chosen].astype(bool))],
    }
    if result.people is not None:
        people = choose_people(result.people)
        n_lines = min(len(chosen), max(1, MAX_PEOPLE // (2 * len(people.person))))
        packed["people"] = {
            "names": people.people,
            "scanners": people.scanners,
            "person": people.person.tolist(),
            "scanner": people.scanner.tolist(),
            "n_scans": people.n_scans.astype(int).tolist(),
            "values": _half(people.values[:, chosen[:n_lines]].T),
            "n_features": n_lines,
        }
    return packed


def _half(values: np.ndarray) -> str:
    with np.errstate(over="ignore"):
        return _text(np.clip(values, -60000, 60000).astype("<f2"))


def _text(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
