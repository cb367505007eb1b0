"""Identification of participants across scanners (fingerprinting), and of scanners (classification accuracy)."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd

from bayesharm.errors import BayesharmError, InputError
from bayesharm.evaluation.metrics.jackknife import (
    CompleteScans,
    JackknifeEstimate,
    jackknife,
    select_complete,
    traveler_mask,
)

N_FOLDS = 10  # folds of the cross-validation of the classifier
PENALTIES = np.logspace(-4, 2, 7)  # candidate ridge penalties of the classifier, for values with a mean square of about 1


def identification_rate(
    values: np.ndarray, scans: pd.DataFrame, *, center: np.ndarray | float, unit: np.ndarray | float
) -> JackknifeEstimate:
    """Compute the identification rate: how often the most similar scan on another scanner is from the same person.

    For every ordered pair of scanners, each scan on the first scanner is compared with all scans on the second, of all
    people with scans on both. Similarity is the Pearson correlation over features (Finn et al., *Nature Neuroscience* 18,
    2015). All combinations of a person and an ordered pair of scanners have the same weight.

    Parameters
    ----------
    values : (scan, feature) array
        Scans with NaN in all features are not used.
    scans : DataFrame
        With the columns `participant_id` and `scanner`.
    center, unit : (feature,) array or float
        Center and divisor of each feature; use the same for all methods.

    Returns
    -------
    JackknifeEstimate
        Rate for people on several scanners; `chance` is the rate for random guesses.

    Raises
    ------
    InputError
        No two people have scans on the same two scanners.
    """
    data = select_complete(np.asarray(values) - center, scans, unit=unit, subset=traveler_mask)
    z = data.values - data.values.mean(1, keepdims=True)
    length = np.linalg.norm(z, axis=1, keepdims=True)
    z /= np.where(length > 0, length, np.nan)
    similarity = z @ z.T
    n_people = len(data.people)
    count = np.zeros((len(data.scanners), n_people), int)
    np.add.at(count, (data.scanner, data.person), 1)
    best = np.full((len(z), *count.shape), -np.inf)
    for k, i in zip(*np.nonzero(count), strict=True):
        best[:, k, i] = similarity[:, (data.scanner == k) & (data.person == i)].max(1)
    rate, chance = _identify(best, count, data, np.ones(n_people, bool))
    if np.isnan(rate):
        raise InputError(
            "Identification needs two people with scans on the same two scanners.",
            got=f"{n_people} people on several scanners, no two of them on the same two",
            expected="two or more people with scans on the same two scanners",
            do="evaluate a study with more people",
        )
    replicates = [_identify(best, count, data, np.arange(n_people) != i)[0] for i in range(n_people)]
    return data.to_estimate(rate, replicates, chance=chance)


def _identify(best: np.ndarray, count: np.ndarray, data: CompleteScans, included: np.ndarray) -> tuple[float, float]:
    """Compute the identification rate and its chance level among the included people.

    `best` is the largest similarity of each scan with the scans of each scanner and person, `count` their number of scans.
    """
    hits, chances = [], []
    for first, second in np.argwhere(~np.eye(len(count), dtype=bool)):
        both = np.flatnonzero(included & (count[first] > 0) & (count[second] > 0))
        if len(both) < 2:
            continue
        query = np.flatnonzero((data.scanner == first) & np.isin(data.person, both))
        person = np.searchsorted(both, data.person[query])
        similarity, line = best[query, second][:, both], np.arange(len(query))
        with_self = similarity[line, person]
        similarity[line, person] = -np.inf
        hits.append(np.bincount(person, with_self > similarity.max(1)) / count[first, both])
        chances.append(count[second, both] / count[second, both].sum())
    return (np.concatenate(hits).mean(), np.concatenate(chances).mean()) if hits else (np.nan, np.nan)


def scanner_accuracy(
    values: np.ndarray, scans: pd.DataFrame, *, unit: np.ndarray | float, folds: int = N_FOLDS, seed: int = 0
) -> JackknifeEstimate:
    """Compute the balanced accuracy with which a linear classifier identifies the scanner of held-out people.

    Cross-validated, with all scans of a person in the same fold. The classifier is ridge regression on the classes, a
    regularized discriminant analysis with its penalty chosen in the training people
    (:class:`sklearn.linear_model.RidgeClassifierCV`). It uses all principal components of the training scans, for speed
    only: the result is that of the features. Scanners with one person are not used.

    The standard error is conditional on the trained classifiers. `chance` and `chance_sd` are the exact mean and sd of
    the accuracy under random permutation of the scanner labels within each person, or, for people scanned once, within
    their fold (Hoeffding, *Annals of Mathematical Statistics* 22, 1951). If everybody was on all scanners, chance is 1 /
    number of scanners.

    Parameters
    ----------
    values : (scan, feature) array
        Scans with NaN in all features are not used.
    scans : DataFrame
        With the columns `participant_id` and `scanner`.
    unit : (feature,) array or float
        Divisor of each feature; use the same for all methods.
    folds : int
        Number of folds; at most the number of people.
    seed : int
        Seed of the assignment of people to folds.

    Returns
    -------
    JackknifeEstimate

    Raises
    ------
    InputError
        Fewer than two scanners have two or more people.
    BayesharmError
        scikit-learn is not installed.
    """
    data = select_complete(values, scans, unit=unit, subset=_shared_scanner_mask)
    folds = min(folds, len(data.people))
    centered = data.values - data.values.mean(0)
    fold, predicted = _classify(centered @ centered.T / centered.shape[1], data, folds, seed)
    is_correct, k = predicted == data.scanner, len(data.scanners)

    def contribution(i: int) -> tuple[np.ndarray, np.ndarray]:
        scanner = data.scanner[data.rows_of_person[i]]
        return np.bincount(scanner, is_correct[data.rows_of_person[i]], k), np.bincount(scanner, minlength=k)

    (accuracy,) = jackknife(data, contribution, lambda hits, n: np.mean(hits / n))
    chance, chance_sd = _chance(predicted, fold, data)
    return data.to_estimate(accuracy.value, accuracy.replicates, chance=chance, chance_sd=chance_sd)


def _shared_scanner_mask(scans: pd.DataFrame) -> np.ndarray:
    """Return a (scan,) bool mask of the scans on scanners with two or more people."""
    mask = (scans.groupby("scanner")["participant_id"].transform("nunique") > 1).to_numpy(bool)
    if scans["scanner"][mask].nunique() < 2:
        raise InputError(
            "There are too few scanners to classify.",
            got=f"{scans['scanner'][mask].nunique()} with two or more people, of {scans['scanner'].nunique()}",
            expected="two or more scanners with two or more people",
            do="evaluate people of several scanners",
        )
    return mask


def _classify(gram: np.ndarray, data: CompleteScans, folds: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the fold and the predicted scanner of each scan, from the inner products of scans, (row, row)."""
    try:
        from sklearn.decomposition import KernelPCA
        from sklearn.linear_model import RidgeClassifierCV
        from sklearn.model_selection import StratifiedGroupKFold
        from threadpoolctl import threadpool_limits
    except ModuleNotFoundError:
        raise BayesharmError(
            "The scanner accuracy needs scikit-learn, which is not installed.",
            got="no module sklearn",
            expected="scikit-learn",
            do="pip install scikit-learn",
        ) from None
    fold, predicted = np.empty((2, len(gram)), int)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)  # it is in some folds only
        splits = list(splitter.split(gram, data.scanner, data.person))
    with threadpool_limits(1):  # one thread: for small matrices on busy cores several threads take ten times as long
        for number, (train, test) in enumerate(splits):
            components = KernelPCA(kernel="precomputed", eigen_solver="dense", remove_zero_eig=True)
            scores = components.fit_transform(gram[np.ix_(train, train)])
            classifier = RidgeClassifierCV(PENALTIES, class_weight="balanced").fit(scores, data.scanner[train])
            fold[test], predicted[test] = number, classifier.predict(components.transform(gram[np.ix_(test, train)]))
    return fold, predicted


def _chance(predicted: np.ndarray, fold: np.ndarray, data: CompleteScans) -> tuple[float, float]:
    """Compute mean and sd of the balanced accuracy over permutations of scanners within people, or within folds.

    Labels of people scanned once are permuted within their fold.
    """
    is_single_scan = np.bincount(data.person)[data.person] == 1
    weight = 1 / np.bincount(data.scanner)[data.scanner] / len(data.scanners)
    mean = variance = 0.0
    group = np.where(is_single_scan, -1 - fold, data.person)
    for name in np.unique(group):
        members = np.flatnonzero(group == name)
        hit = weight[members] * (predicted[members][:, None] == data.scanner[members])
        mean += hit.sum() / len(members)
        centered = hit - hit.mean(0) - hit.mean(1, keepdims=True) + hit.mean()
        variance += (centered**2).sum() / max(len(members) - 1, 1)
    return mean, np.sqrt(variance)
