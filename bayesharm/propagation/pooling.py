"""Any analysis of harmonized data, with the uncertainty of the harmonization in its result: Rubin's rules over draws."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from bayesharm.errors import InputError
from bayesharm.propagation.least_squares import FeatureEstimates

COMPARED = ["estimate", "se", "lower", "upper", "p"]


def pool(
    estimates: ArrayLike,
    variances: ArrayLike | None,
    *,
    df: ArrayLike | None = None,
    level: float = 0.9,
    labels: Sequence[Any] | pd.Index | None = None,
    scale: str = "identity",
) -> pd.DataFrame:
    """Pool what an analysis said of each draw of the harmonized data.

    Parameters
    ----------
    estimates : (draw, quantity) or (draw,) array or DataFrame
    variances : array of the same shape, or None
        Squared standard errors. None: the analysis gives none. Then `within`, `lost` and `p` are NaN, and `se` and the
        interval hold the uncertainty of harmonization alone.
    df : float or (quantity,) array, optional
        Degrees of freedom of the analysis; default: infinitely many.
    level : float
        Of the intervals.
    labels : sequence, optional
        Names of the quantities; default: the columns of `estimates`.
    scale : {'identity', 'fisher_z'}
        'fisher_z': estimates are Fisher z of correlations, and the table is about the correlations.

    Returns
    -------
    DataFrame by quantity
        `estimate`: the mean over draws; `se`, `lower`, `upper`, `df` of it; `p`, two-sided, of being 0;
        `within`: mean variance of the analysis; `between`: variance of the estimate between draws; `lost`: the fraction of
        the information on the quantity that is lost because the measurement bias is not known exactly. What is NaN in one
        draw is NaN.

    Raises
    ------
    InputError
        There is one draw, shapes differ, a variance is negative, or an option is not known.

    Notes
    -----
    Rubin 1987, *Multiple Imputation for Nonresponse in Surveys*, section 3.1: total variance within + (1 + 1/draws) between.
    Degrees of freedom by Barnard & Rubin 1999, doi 10.1093/biomet/86.4.948, if `df` is given. The information of a
    t-distribution is (df + 1) / (df + 3) / variance, and `lost` is the share of it that is missing: Rubin's fraction of
    missing information if `df` is infinite.
    """
    _check_options(level, scale)
    if labels is None and isinstance(estimates, pd.DataFrame):
        labels = estimates.columns
    q = np.asarray(estimates, float)
    q = q[:, None] if q.ndim == 1 else q
    _check_number(len(q))
    between = (q - q[0]).var(axis=0, ddof=1)  # exactly 0 where all draws are the same
    within = np.zeros_like(between)
    if variances is not None:
        u = np.asarray(variances, float)
        u = u[:, None] if u.ndim == 1 else u
        if u.shape != q.shape or (u < 0).any():
            raise InputError(
                "The variances do not belong to the estimates.",
                got=f"shape {u.shape}, {(u < 0).sum()} of them negative",
                expected=f"shape {q.shape}, squared standard errors",
                do="give a variance for each estimate",
            )
        within = u.mean(axis=0)
    known_df = np.broadcast_to(np.asarray(np.inf if df is None or variances is None else df, float), between.shape)
    total = within + (1 + 1 / len(q)) * between
    pooled_df = _degrees_of_freedom(len(q), within, between, known_df)
    table = _describe(q.mean(axis=0), total, pooled_df, level, scale)
    with np.errstate(invalid="ignore", divide="ignore"):
        lost = 1 - within / total * _information(pooled_df) / _information(known_df)
    unit = 1 - table["estimate"].to_numpy() ** 2 if scale == "fisher_z" else 1.0
    table = table.assign(df=pooled_df, within=within * unit**2, between=between * unit**2, lost=lost)
    if variances is None:
        table[["p", "within", "lost"]] = np.nan
    return table if labels is None else _name(table, labels)


def propagate(
    function: Callable[[np.ndarray], Any],
    draws: Iterable[ArrayLike],
    *,
    df: ArrayLike | None = None,
    level: float = 0.9,
    labels: Sequence[Any] | pd.Index | None = None,
) -> pd.DataFrame:
    """Run an analysis on every draw of the harmonized data, and pool what it says.

    Parameters
    ----------
    function : callable
        Takes the (scan, feature) values of a draw, which it cannot change. Returns ``estimate``, ``(estimate, variance)`` or
        ``(estimate, variance, df)``, each a number, an array or a Series by quantity; or a DataFrame with these columns. The
        variance is the squared standard error. Made by :func:`group_difference`, :func:`contrast`, :func:`correlation`,
        :func:`estimator_score`, or your own.
    draws : (draw, scan, feature) array, or iterable of (scan, feature) arrays
        `Harmonized.draws`, or a file of draws opened with ``numpy.load(file, mmap_mode="r")``: one draw at a time is
        read.
    df : float or (quantity,) array, optional
        Degrees of freedom of the analysis, if it does not say; default: infinitely many.
    level : float
        Of the intervals.
    labels : sequence, optional
        Names of the quantities, such as `Harmonized.names`; default: the index of what the function returns.

    Returns
    -------
    DataFrame by quantity
        As from :func:`pool`. If the function gives no variance, `within`, `lost` and `p` are NaN, and `se` and the interval
        hold the uncertainty of harmonization alone: nothing of who was scanned, or of noise.

    Raises
    ------
    InputError
        There are fewer than two draws, or something else than one result of the same kind from each.
    """
    _check_options(level)
    if hasattr(draws, "draws"):
        raise InputError("The draws are wanted alone.", got=f"a {type(draws).__name__}", expected="its draws",
                         do="give harmonized.draws")  # fmt: skip
    if draws is None:
        raise InputError("There are no draws.", got="None", expected="draws", do="harmonize with draws=20, for example")
    found = list(map(partial(_run, function), draws))  # lets go of a draw before it takes the next
    _check_number(len(found))
    results = [result for result, _ in found]
    if len(shapes := {tuple(np.shape(part) for part in result) for result in results}) > 1:
        raise InputError(
            "The function does not return the same quantities for every draw.",
            got=f"shapes of estimate, variance and df: {' or '.join(str(shape[:3]) for shape in sorted(shapes))}",
            expected="the same for every draw",
            do="return the same quantities for every draw",
        )
    first = results[0]
    return pool(
        np.stack([result.estimate for result in results]),
        None if first.variance is None else np.stack([result.variance for result in results]),
        df=df if first.df is None else np.mean([result.df for result in results], axis=0),
        level=level,
        labels=found[0][1] if labels is None else labels,
        scale=first.scale,
    )


def compare_propagation(
    function: Callable[[np.ndarray], Any],
    mean: ArrayLike,
    draws: Iterable[ArrayLike],
    *,
    df: ArrayLike | None = None,
    level: float = 0.9,
    labels: Sequence[Any] | pd.Index | None = None,
) -> pd.DataFrame:
    """What becomes of an analysis when the uncertainty of harmonization is carried into it.

    Parameters
    ----------
    function, draws, df, level, labels
        As in :func:`propagate`.
    mean : (scan, feature) array
        `Harmonized.mean`.

    Returns
    -------
    DataFrame by quantity
        As from :func:`propagate`; then `estimate_plain`, `se_plain`, `lower_plain`, `upper_plain`, `p_plain`: the analysis
        of the mean, as if it were exact.

    Raises
    ------
    InputError
        As in :func:`propagate`.
    """
    table = propagate(function, draws, df=df, level=level, labels=labels)
    plain, _ = _run(function, mean)
    variance = np.full(np.shape(plain.estimate), np.nan) if plain.variance is None else plain.variance
    known_df = next((given for given in (plain.df, df) if given is not None), np.inf)
    without = _describe(plain.estimate, variance, np.broadcast_to(known_df, variance.shape), level, plain.scale)
    return table.join(without[COMPARED].add_suffix("_plain").set_axis(table.index))


def _run(function: Callable[[np.ndarray], Any], values: ArrayLike) -> tuple[FeatureEstimates, pd.Index | None]:
    """What the function says of a draw as arrays by quantity, and names of the quantities if it gives them."""
    draw = np.asarray(values).view()
    if draw.ndim != 2:
        raise InputError(
            "A draw is not a table of scans and features.",
            got=f"an array of shape {draw.shape}",
            expected="draws of shape (scan, feature) each",
            do="give a (draw, scan, feature) array, such as Harmonized.draws, or an iterable of (scan, feature) arrays",
        )
    draw.flags.writeable = False
    said = function(draw)
    try:
        if isinstance(said, pd.DataFrame):
            found = FeatureEstimates(said["estimate"], said.get("variance"), said.get("df"))
        else:
            found = FeatureEstimates(*said) if isinstance(said, tuple) else FeatureEstimates(said)
        index = found.estimate.index if isinstance(found.estimate, pd.Series) else None
        estimate = np.atleast_1d(np.array(found.estimate, float))  # nothing that would keep the draw
        variance, df = (
            None if part is None else np.broadcast_to(np.asarray(part, float), estimate.shape) for part in found[1:3]
        )
        if said is None:
            raise TypeError("nothing was returned")
        if estimate.ndim > 1:
            raise ValueError(f"estimates of shape {estimate.shape}")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            "What the function returns cannot be understood.",
            got=f"{type(said).__name__}: {error}",
            expected="estimate, (estimate, variance) or (estimate, variance, df), numbers or arrays by quantity",
            do="return a tuple of these, or a DataFrame with these columns",
        ) from None
    return FeatureEstimates(estimate, variance, df, found.scale), index


def _degrees_of_freedom(n_draws: int, within: np.ndarray, between: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Barnard & Rubin's, which are Rubin's where the analysis has infinitely many; `known`, where draws do not differ."""
    with np.errstate(invalid="ignore", divide="ignore"):
        share = within / (within + (1 + 1 / n_draws) * between)
        observed = np.where(np.isinf(known), np.inf, _information(known) * known * share)
        pooled = 1 / ((1 - share) ** 2 / (n_draws - 1) + 1 / observed)
    return np.where(between == 0, known, pooled)


def _information(df: np.ndarray) -> np.ndarray:
    """Of a t-distribution, as a share of that of a normal one of the same scale: (df + 1) / (df + 3)."""
    return 1 - 2 / (df + 3)


def _describe(estimate: np.ndarray, variance: np.ndarray, df: np.ndarray, level: float, scale: str) -> pd.DataFrame:
    """`estimate`, `se`, `lower`, `upper`, `p` by quantity."""
    from scipy.stats import t

    se = np.sqrt(variance)
    half = t.ppf((1 + level) / 2, df) * se
    with np.errstate(invalid="ignore", divide="ignore"):
        p = 2 * t.sf(abs(estimate) / se, df)
    lower, upper = estimate - half, estimate + half
    if scale == "fisher_z":
        estimate, lower, upper = np.tanh(estimate), np.tanh(lower), np.tanh(upper)
        se = se * (1 - estimate**2)
    return pd.DataFrame({"estimate": estimate, "se": se, "lower": lower, "upper": upper, "p": p})


def _name(table: pd.DataFrame, labels: Any) -> pd.DataFrame:
    index = labels if isinstance(labels, pd.Index) else pd.Index(list(labels))
    if len(index) != len(table):
        raise InputError(
            "The labels do not belong to the quantities.",
            got=f"{len(index)} labels",
            expected=f"{len(table)}, one for each quantity",
            do="give the names of what the function returns, such as Harmonized.names",
        )
    return table.set_axis(index)


def _check_number(n_draws: int) -> None:
    if n_draws < 2:
        raise InputError(
            "This is too little to tell how uncertain the harmonization is.",
            got=f"{n_draws} draw{'s' * (n_draws != 1)}",
            expected="2 draws or more",
            do="harmonize with draws=20 or more",
        )


def _check_options(level: float, scale: str = "identity") -> None:
    if not 0 < level < 1 or scale not in ("identity", "fisher_z"):
        raise InputError(
            "An option is not known.",
            got=f"level={level!r}, scale={scale!r}",
            expected="level between 0 and 1, scale 'identity' or 'fisher_z'",
            do="use one of these",
        )
