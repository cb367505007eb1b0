"""The same scan twice, and people whose scans are no more alike than those of different people."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy import stats

from bayesharm.data.finding import Finding
from bayesharm.data.screening.sweep import Sweep
from bayesharm.errors import shorten

FEW = 0.01  # share of scans, below which people scanned once may be in the table twice without harm
MOST_SCANS = 3000  # scans that are compared with one another
NEAR = 1e-4  # squared distance of two scans over the median one, below which they are one scan
LEAST_PEOPLE, MOST_PEOPLE = 8, 100  # with several scans, to say that no person's scans are alike
MOST_PAIRED = 6  # scans of a person that are compared with one another for this
LEAST_FEATURES = 6  # independent features that distances need


def screen_doubles(scans: pd.DataFrame, sweep: Sweep) -> Iterator[Finding]:
    """Find scans that are in the table twice, and identifiers that stand for several people by their features."""
    same = list(_identical(scans, sweep))
    yield from same
    yield from _by_distance(scans, sweep, has_identical=bool(same))


def _identical(scans: pd.DataFrame, sweep: Sweep) -> Iterator[Finding]:
    double = pd.Series(sweep.double, scans.index)
    if (double < 0).all() or not _is_certain(sweep.sample):
        return
    groups = [list(scans["scan_id"][index]) for _, index in double[double >= 0].groupby(double).groups.items()]
    first = scans[scans["scan_id"].isin(groups[0])]
    names = [f"{scan} of {person}" for scan, person in zip(first["scan_id"], first["participant_id"], strict=True)]
    people = scans["participant_id"][double >= 0].groupby(double[double >= 0]).nunique()
    repeated = scans["participant_id"].duplicated(keep=False)[double >= 0].any()
    yield Finding(
        "identical-scans",
        "error" if repeated or (double >= 0).mean() > FEW else "caveat",
        "Some scans have exactly the same features: one scan seems to be in the table under several names.",
        got=f"{len(groups)} groups, such as {shorten(names)}"
        + (f"; {int((people > 1).sum())} groups are of several people" if (people > 1).any() else ""),
        expected="other values in every scan: even the same person on the same scanner has other noise",
        do="remove the repeated scans, or correct the file from which one of them was read",
        scans=tuple(scan for group in groups for scan in group),
        participants=tuple(scans["participant_id"][double >= 0].unique()),
    )


def _is_certain(sample: np.ndarray) -> bool:
    """Whether two scans cannot agree in all features by chance, from how often they agree in each."""
    information = 0.0
    for column in sample.T[:200]:
        _, count = np.unique(column, return_counts=True)
        pairs = len(column) * (len(column) - 1)
        information -= np.log(max(np.sum(count * (count - 1.0)), 1.0) / pairs) if pairs else 0.0
    return bool(0.5 * information > np.log(1e4 * len(sample) ** 2))  # half: features are correlated


def _by_distance(scans: pd.DataFrame, sweep: Sweep, has_identical: bool) -> Iterator[Finding]:
    """Compare scans by their mean squared difference over features, scanner means removed."""
    rng = np.random.default_rng(0)
    repeated = scans["participant_id"].duplicated(keep=False).to_numpy()
    several = (scans.groupby("scanner")["scan_id"].transform("size") > 2).to_numpy()  # a mean of their own leaves nothing
    rows = np.flatnonzero(repeated & several)[:MOST_SCANS]
    others = rng.permutation(np.flatnonzero(~repeated & several))[: MOST_SCANS - len(rows)]
    rows = np.sort(np.concatenate([rows, others]))
    if len(rows) < 8:
        return
    z = standardize(sweep.sample[rows], scans["scanner"].iloc[rows])
    if z.shape[1] < LEAST_FEATURES:
        return
    gram = z @ z.T / z.shape[1]
    size = np.diag(gram)
    if independent_features(gram) < LEAST_FEATURES:
        return
    distance = size[:, None] + size - 2 * gram
    person = pd.factorize(scans["participant_id"].iloc[rows])[0]
    upper = np.triu(np.ones(distance.shape, bool), 1)
    is_same = person[:, None] == person
    apart = distance[upper & ~is_same]
    if not len(apart):
        return
    if not has_identical:
        yield from _near(scans.iloc[rows], sweep.sample[rows], upper)
    yield from _unlike(scans.iloc[rows], distance, person, apart)


def standardize(values: np.ndarray, scanner: pd.Series) -> np.ndarray:
    """Return features without scanner means, in their sds, (scan, feature); 0 where missing, without constant features."""
    code = pd.factorize(scanner)[0]
    is_known = np.isfinite(values)
    indicators = np.eye(code.max() + 1)[code]
    count = np.maximum(indicators.T @ is_known, 1)
    filled = np.where(is_known, values, 0.0)
    z = np.where(is_known, filled - (indicators.T @ filled / count)[code], 0.0)
    sd = z.std(axis=0)
    sd = np.clip(z, -4 * sd, 4 * sd).std(axis=0)
    varies = sd > 1e-12 * np.abs(filled).max(axis=0, initial=0)
    return np.clip(z[:, varies] / sd[varies], -6, 6)  # one wild feature must not decide


def independent_features(gram: np.ndarray) -> float:
    """Return the number of independent features with the same variance of squared distances, from a (scan, scan) matrix."""
    total = np.trace(gram) ** 2 / np.sum(gram**2)
    n = len(gram)
    return float(total * n / max(n - total, 1e-9)) if total < n else np.inf


def _near(scans: pd.DataFrame, values: np.ndarray, upper: np.ndarray) -> Iterator[Finding]:
    """Pairs of scans that differ by rounding; scanner means stay, since one scan may be on two scanners."""
    z = standardize(values, pd.Series("", scans.index))
    gram = z @ z.T / z.shape[1]
    size = np.diag(gram)
    distance = size[:, None] + size - 2 * gram
    near = np.argwhere(upper & (distance < NEAR * np.median(distance[upper])))
    if len(near):
        names = [f"{scans['scan_id'].iloc[i]} and {scans['scan_id'].iloc[j]}" for i, j in near]
        yield Finding(
            "nearly-identical-scans",
            "caveat",
            "Some scans are nearly the same in all features, closer than noise allows.",
            got=f"{len(near)} pairs: {shorten(names, 3)}",
            expected="other values in every scan",
            do="check whether one scan was processed twice, and remove one of the two",
            scans=tuple(dict.fromkeys(str(scans["scan_id"].iloc[k]) for pair in near for k in pair)),
        )


def _unlike(scans: pd.DataFrame, distance: np.ndarray, person: np.ndarray, apart: np.ndarray) -> Iterator[Finding]:
    """People whose scans differ as those of different people do, where those of others do not."""
    low, middle = np.quantile(apart, [0.01, 0.5])
    typical = {}
    for code in np.flatnonzero(np.bincount(person) > 1):
        members = np.flatnonzero(person == code)
        pairs = distance[np.ix_(members, members)][np.triu_indices(len(members), 1)]
        typical[code] = float(np.median(pairs))
    values = np.array(list(typical.values()))
    alike = int((values < low).sum())
    is_carried = len(values) >= 4 and alike >= 3 and stats.binom.sf(alike - 1, len(values), 0.01) < 1e-4
    unlike = [code for code, value in typical.items() if value > middle]
    if is_carried and unlike:
        names = [str(scans["participant_id"].iloc[np.flatnonzero(person == code)[0]]) for code in unlike]
        yield Finding(
            "people-unlike",
            "caveat",
            "The scans of some people are no more alike than scans of different people.",
            got=f"{len(names)} of {len(values)} people with several scans: {shorten(names)}",
            expected="scans of one person that are more alike, as those of others are",
            do="check whether these identifiers stand for several people, or whether a scan has failed",
            scans=tuple(scans["scan_id"][scans["participant_id"].isin(names)]),
            participants=tuple(names),
        )
    elif len(values) >= LEAST_PEOPLE:
        scanner = pd.factorize(scans["scanner"])[0]
        some = np.random.default_rng(0).permutation(list(typical))[:MOST_PEOPLE]
        shares = np.array([_share_less_alike(distance, person == code, scanner) for code in some])
        shares = shares[np.isfinite(shares)]
        if len(shares) >= LEAST_PEOPLE and shares.mean() < 0.5 + 1.64 / np.sqrt(12 * len(shares)):
            yield Finding(
                "people-unlike",
                "caveat",
                "In the whole study, scans of one participant_id are not measurably more alike than those of different "
                "people.",
                got=f"{shares.mean():.0%} of the pairs of different people on the same scanners are less alike, over "
                f"{len(shares)} people with several scans; chance gives 50%",
                expected="scans of one person that are more alike, unless the features hardly tell people apart",
                do="check whether sites have numbered their own people alike: then nobody has traveled",
                participants=tuple(str(scans["participant_id"].iloc[np.flatnonzero(person == code)[0]]) for code in typical),
            )


def _share_less_alike(distance: np.ndarray, is_own: np.ndarray, scanner: np.ndarray) -> float:
    """Return how often a scan of a person is closer to the person's scan on another scanner than to other people's there."""
    shares = []
    own = np.flatnonzero(is_own)[:MOST_PAIRED]
    for one in own:
        for other in own[own != one]:
            rivals = distance[one, (scanner == scanner[other]) & ~is_own]
            if len(rivals):
                shares.append(np.mean(rivals > distance[one, other]))
    return float(np.mean(shares)) if shares else np.nan
