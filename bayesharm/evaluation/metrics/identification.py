"""Can scans tell whose they are, on another scanner; and on which scanner they were made?"""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd

from bayesharm.errors import BayesharmError, InputError
from bayesharm.evaluation.metrics.jackknife import Measure, Rows, jackknife, select, travel

N_FOLDS = 10
PENALTIES = np.logspace(-4, 2, 7)  # of the classifier, for values whose mean square is about 1


def identification_rate(
    values: np.ndarray, scans: pd.DataFrame, *, center: np.ndarray | float, unit: np.ndarray | float
) -> Measure:
    """How often the most similar scan on another scanner is the person's own.

    For every ordered pair of scanners and each person on both: each scan of theirs on the first, among the scans on the
    second of all people on both; similarity is the Pearson correlation over features (Finn et al., *Nature Neuroscience* 18,
    2015). Every person and pair of scanners counts once.

    Parameters
    ----------
    values : (scan, feature) array
        Scans with NaN in all features are left out.
    scans : DataFrame
        `participant_id`, `scanner`.
    center, unit : (feature,) array or float
        What is subtracted from each feature and what it is then divided by: the same for all methods.

    Returns
    -------
    Measure
        Of people on several scanners; `chance` is the rate of guesses.

    Raises
    ------
    InputError
        There are no two people who were both on the same two scanners.
    """
    rows = select(np.asarray(values) - center, scans, unit=unit, who=travel)
    z = rows.values - rows.values.mean(1, keepdims=True)
    length = np.linalg.norm(z, axis=1, keepdims=True)
    z /= np.where(length > 0, length, np.nan)
    similarity = z @ z.T
    n_people = len(rows.people)
    count = np.zeros((len(rows.scanners), n_people), int)
    np.add.at(count, (rows.scanner, rows.person), 1)
    best = np.full((len(z), *count.shape), -np.inf)
    for k, i in zip(*np.nonzero(count), strict=True):
        best[:, k, i] = similarity[:, (rows.scanner == k) & (rows.person == i)].max(1)
    rate, chance = _identify(best, count, rows, np.ones(n_people, bool))
    if np.isnan(rate):
        raise InputError(
            "Nobody can be mistaken for another.",
            got=f"{n_people} people on several scanners, no two of them on the same two",
            expected="two people or more with scans on the same two scanners",
            do="evaluate on more people",
        )
    without = [_identify(best, count, rows, np.arange(n_people) != i)[0] for i in range(n_people)]
    return rows.measure(rate, without, chance=chance)


def _identify(best: np.ndarray, count: np.ndarray, rows: Rows, there: np.ndarray) -> tuple[float, float]:
    """Rate and chance among people who are `there`, from the best similarity of a scan with each scanner and person."""
    hits, chances = [], []
    for first, second in np.argwhere(~np.eye(len(count), dtype=bool)):
        both = np.flatnonzero(there & (count[first] > 0) & (count[second] > 0))
        if len(both) < 2:
            continue
        query = np.flatnonzero((rows.scanner == first) & np.isin(rows.person, both))
        who = np.searchsorted(both, rows.person[query])
        found, line = best[query, second][:, both], np.arange(len(query))
        own = found[line, who]
        found[line, who] = -np.inf
        hits.append(np.bincount(who, own > found.max(1)) / count[first, both])
        chances.append(count[second, both] / count[second, both].sum())
    return (np.concatenate(hits).mean(), np.concatenate(chances).mean()) if hits else (np.nan, np.nan)


def scanner_accuracy(
    values: np.ndarray, scans: pd.DataFrame, *, unit: np.ndarray | float, folds: int = N_FOLDS, seed: int = 0
) -> Measure:
    """How well a linear classifier tells on which scanner people it has not seen were scanned: balanced accuracy.

    Cross-validated with all scans of a person in the same fold. The classifier is ridge regression on the classes, a
    regularized discriminant analysis whose penalty is chosen within the training people
    (:class:`sklearn.linear_model.RidgeClassifierCV`), on all principal components of the training scans, which makes no
    difference but to speed. Scanners with one person are left out.

    The standard error takes the classifiers as trained. `chance` and `chance_sd` are exact for data in which nothing depends
    on the scanner: the mean and sd of the accuracy if the scanners of each person's scans (of those scanned once: of the
    people of a fold) changed places at random (Hoeffding, *Annals of Mathematical Statistics* 22, 1951). Chance is 1 /
    number of scanners where everybody was on all of them.

    Parameters
    ----------
    values : (scan, feature) array
        Scans with NaN in all features are left out.
    scans : DataFrame
        `participant_id`, `scanner`.
    unit : (feature,) array or float
        What values are divided by: the same for all methods.
    folds : int
        Or the number of people, if there are fewer.
    seed : int
        Of who is in which fold.

    Returns
    -------
    Measure

    Raises
    ------
    InputError
        There are fewer than two scanners with two people or more.
    BayesharmError
        scikit-learn is not installed.
    """
    rows = select(values, scans, unit=unit, who=_shared)
    folds = min(folds, len(rows.people))
    centered = rows.values - rows.values.mean(0)
    fold, said = _classify(centered @ centered.T / centered.shape[1], rows, folds, seed)
    right, k = said == rows.scanner, len(rows.scanners)

    def part(i: int) -> tuple[np.ndarray, np.ndarray]:
        scanner = rows.scanner[rows.of_person[i]]
        return np.bincount(scanner, right[rows.of_person[i]], k), np.bincount(scanner, minlength=k)

    (found,) = jackknife(rows, part, lambda hits, n: np.mean(hits / n))
    chance, chance_sd = _chance(said, fold, rows)
    return rows.measure(found.value, found.without, chance=chance, chance_sd=chance_sd)


def _shared(scans: pd.DataFrame) -> np.ndarray:
    """Scans on scanners with two people or more."""
    found = (scans.groupby("scanner")["participant_id"].transform("nunique") > 1).to_numpy(bool)
    if scans["scanner"][found].nunique() < 2:
        raise InputError(
            "There are too few scanners to be told from one another.",
            got=f"{scans['scanner'][found].nunique()} with two people or more, of {scans['scanner'].nunique()}",
            expected="two or more",
            do="evaluate on people of several scanners",
        )
    return found


def _classify(gram: np.ndarray, rows: Rows, folds: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The fold of each scan, and the scanner that it is said to be from; from products of scans, (row, row)."""
    try:
        from sklearn.decomposition import KernelPCA
        from sklearn.linear_model import RidgeClassifierCV
        from sklearn.model_selection import StratifiedGroupKFold
        from threadpoolctl import threadpool_limits
    except ModuleNotFoundError:
        raise BayesharmError(
            "Telling scanners apart needs scikit-learn, which is not installed.",
            expected="scikit-learn",
            do="pip install scikit-learn",
        ) from None
    fold, said = np.empty((2, len(gram)), int)
    deal = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)  # it is then in some folds only
        splits = list(deal.split(gram, rows.scanner, rows.person))
    with threadpool_limits(1):  # several threads wait for one another on small matrices, ten times as long on busy cores
        for number, (train, test) in enumerate(splits):
            components = KernelPCA(kernel="precomputed", eigen_solver="dense", remove_zero_eig=True)
            scores = components.fit_transform(gram[np.ix_(train, train)])
            classifier = RidgeClassifierCV(PENALTIES, class_weight="balanced").fit(scores, rows.scanner[train])
            fold[test], said[test] = number, classifier.predict(components.transform(gram[np.ix_(test, train)]))
    return fold, said


def _chance(said: np.ndarray, fold: np.ndarray, rows: Rows) -> tuple[float, float]:
    """Mean and sd of the balanced accuracy over permutations of scanners within people, or once-scanned people of a fold."""
    once = np.bincount(rows.person)[rows.person] == 1
    weight = 1 / np.bincount(rows.scanner)[rows.scanner] / len(rows.scanners)
    mean = variance = 0.0
    group = np.where(once, -1 - fold, rows.person)
    for name in np.unique(group):
        some = np.flatnonzero(group == name)
        hit = weight[some] * (said[some][:, None] == rows.scanner[some])
        mean += hit.sum() / len(some)
        centered = hit - hit.mean(0) - hit.mean(1, keepdims=True) + hit.mean()
        variance += (centered**2).sum() / max(len(some) - 1, 1)
    return mean, np.sqrt(variance)
