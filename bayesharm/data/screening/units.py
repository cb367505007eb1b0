"""Units of the features: other units on some scanners, and correlations where Fisher z is meant."""

from __future__ import annotations

from collections.abc import Iterator
from math import comb

import numpy as np
import pandas as pd

from bayesharm.data.finding import Finding
from bayesharm.data.screening.sweep import Sweep
from bayesharm.errors import shorten

APART = 3.0  # factor between the values of scanners, from which units are suspected
POWER_TOLERANCE = (
    0.09  # of log10: scanners whose values differ by 10, 100, … have other units, even if they also differ by 20%
)
LEAST_SCANS = 3
MIN_CHOICES, FEW_FEATURES = 1e3, 0.02  # choices of scans per feature, and share of features, below which it is chance
STRONG = 0.4  # mean correlation from which r and z differ enough


def screen_units(scans: pd.DataFrame, sweep: Sweep, may_be_r: bool = True) -> Iterator[Finding]:
    """Find scanners whose features are in other units than those of the others; and r, unless it was transformed."""
    count = scans["scanner"].astype(str).value_counts().reindex(sweep.scanners).to_numpy()
    if len(sweep.scanners) < 2:
        return
    mixed: dict[str, list[str]] = {}
    examples: dict[str, str] = {}
    for k, scanner in enumerate(sweep.scanners.tolist()):
        if count[k] < LEAST_SCANS or count.sum() - count[k] < LEAST_SCANS:
            continue
        if len(sweep.scanners) == 2 and k == 1:
            break  # the same comparison as that of the first
        factor, is_apart = _factors(sweep, k, count)
        names = sweep.names[is_apart]
        if len(names):
            mixed[scanner] = list(map(str, names))
            examples[scanner] = (
                f"{scanner!r} in {len(names)} of {len(sweep.names)} features, {_times(factor[is_apart])}, such as "
                f"{str(names[0])!r}"
            )
    if may_be_r:
        yield from _correlations(sweep, scans)
    if not mixed:
        return
    yield Finding(
        "mixed-units",
        "error",
        "Some scanners seem to give features in other units than the others.",
        got="; ".join(list(examples.values())[:4]),
        expected="one unit for each feature on all scanners",
        do="convert the values to one unit, such as mm, before the fit",
        columns=tuple(dict.fromkeys(name for names in mixed.values() for name in names)),
    )


def _factors(sweep: Sweep, k: int, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the factor between a scanner and the others, and which features are in other units there; (feature,) arrays."""
    others = np.arange(len(count)) != k
    with np.errstate(invalid="ignore", divide="ignore", all="ignore"):
        rest = np.quantile(sweep.level[others], 0.5, axis=0, method="lower")
        factor = sweep.level[k] / rest
        power = np.round(np.log10(factor))
        is_power = (power != 0) & (np.abs(np.log10(factor) - power) < POWER_TOLERANCE)
        above = sweep.least[k] > APART * np.fmax.reduce(sweep.most[others])
        below = sweep.most[k] * APART < np.fmin.reduce(sweep.least[others])
    is_apart = is_power & (above | below)
    # scanners with few scans are apart in a feature by chance once in so many times as their scans can be chosen
    if comb(int(count.sum()), int(count[k])) < MIN_CHOICES * len(is_apart) and is_apart.mean() < FEW_FEATURES:
        is_apart[:] = False
    known = np.isfinite(factor) & (factor > 0)
    if known.sum() >= 20 and count[k] * known.sum() >= 200:  # features around 0: the sizes of many say it together
        log_factor = np.log10(factor[known])
        middle, spread = np.median(log_factor), np.subtract(*np.quantile(log_factor, [0.75, 0.25]))
        nearest = np.round(middle)
        if nearest != 0 and abs(middle - nearest) < POWER_TOLERANCE and spread < 0.5:
            is_apart = is_apart | (known & is_power)
    return factor, is_apart


def _times(factors: np.ndarray) -> str:
    typical = float(np.median(factors))
    return f"{typical:.3g} times those of the others" if typical >= 1 else f"1/{1 / typical:.3g} of those of the others"


def _correlations(sweep: Sweep, scans: pd.DataFrame) -> Iterator[Finding]:
    """Correlations r on some or all scanners, by their bounds and by how they spread."""
    sample = sweep.sample[:, np.isfinite(sweep.sample).all(0)]
    if sample.shape[1] < 20 or (sample < 0).mean() < 0.01 or np.abs(sample).max() > 5:
        return
    scanner = scans["scanner"].astype(str)
    inside = np.abs(sample).max(axis=1) <= 1
    if inside.all():
        if _spreads_like_r(sample, scanner):
            yield _not_z(scans, "all features are", "", ())
        return
    bounded = inside.groupby(scanner.to_numpy()).all() if isinstance(inside, pd.Series) else (
        pd.Series(inside).groupby(scanner.to_numpy()).all())  # fmt: skip
    if bounded.all() or not bounded.any():
        return
    is_z = ~scanner.isin(bounded.index[bounded]).to_numpy()
    reference = sample[is_z].mean(0)
    if (np.abs(reference) > STRONG).sum() < 10:
        return
    in_r = [name for name in bounded.index[bounded] if _is_tanh_of(sample[(scanner == name).to_numpy()].mean(0), reference)]
    if in_r:
        yield _not_z(scans, "some scanners are", f" on {shorten(in_r)}, and beyond them on others", in_r)


def _spreads_like_r(sample: np.ndarray, scanner: pd.Series) -> bool:
    """Whether strong features vary less, as 1 - r² says: the spread of z does not depend on its mean."""
    mean = sample.mean(0)
    if np.abs(mean).max() < 0.5 or (np.abs(mean) > STRONG).sum() < 10:
        return False
    code = pd.factorize(scanner)[0]
    indicators = np.eye(code.max() + 1)[code]
    residual = sample - (indicators.T @ sample / indicators.sum(0)[:, None])[code]
    x, y = np.log1p(-(mean**2)), np.log(residual.std(0) + 1e-12)
    x = x - x.mean()
    slope = float(x @ (y - y.mean()) / (x @ x))
    rest = y - y.mean() - slope * x
    error = float(np.sqrt(rest @ rest / (len(x) - 2) / (x @ x)))
    return slope > 0.5 and slope > 4 * error


def _is_tanh_of(mean: np.ndarray, z: np.ndarray) -> bool:
    """Whether the means of a scanner are tanh of those of the others, rather than proportional to them."""
    strong = np.abs(z) > 0.2
    if strong.sum() < 20:
        return False
    y = mean[strong]
    left = [y - x * float(x @ y) / float(x @ x) for x in (z[strong], np.tanh(z[strong]))]
    return float(left[1] @ left[1]) < 0.5 * float(left[0] @ left[0])


def _not_z(scans: pd.DataFrame, who: str, where: str, scanners: object) -> Finding:
    is_mixed = bool(scanners)
    return Finding(
        "r-and-z-mixed" if is_mixed else "correlations-not-z",
        "error" if is_mixed else "caveat",
        f"The features look like correlations: {who} within -1 and 1"
        + (", and the others are Fisher z." if is_mixed else " and vary less where they are strong."),
        got="values within -1 and 1" + where,
        expected="Fisher z, whose noise does not depend on the strength of the connection",
        do="transform the correlations of these scanners with arctanh"
        if is_mixed
        else "fit them in Fisher z: --transform fisher-z (transform='fisher-z' in Python)",
        scans=tuple(scans["scan_id"][scans["scanner"].isin(list(scanners))]) if is_mixed else (),  # type: ignore[call-overload]
    )
