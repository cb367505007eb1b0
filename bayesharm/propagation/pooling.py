"""Multiple-imputation pooling: analyses of harmonized data with the uncertainty of harmonization, by Rubin's rules."""

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
    """Pool the estimates from several draws of the harmonized data by Rubin's rules.

    Parameters
    ----------
    estimates : (draw, quantity) or (draw,) array or DataFrame
        Estimates of the analysis, one row per draw.
    variances : array of the same shape, or None
        Squared standard errors. None if the analysis has none: then `within`, `lost` and `p` are NaN, and `se` and the
        interval contain the uncertainty of harmonization only.
    df : float or (quantity,) array, optional
        Degrees of freedom of the analysis; default: infinite.
    level : float
        Confidence level of the intervals.
    labels : sequence, optional
        Names of the quantities; default: the columns of `estimates`.
    scale : {'identity', 'fisher_z'}
        'fisher_z': estimates are Fisher z of correlations; the table contains correlations.

    Returns
    -------
    DataFrame by quantity
        `estimate`: mean over draws, with `se`, `lower`, `upper`, `df` and the two-sided `p` for 0; `within`: mean variance
        of the analysis; `between`: variance of the estimate between draws; `lost`: fraction of missing information, due to
        the uncertainty of the measurement bias. A quantity with NaN in one draw is NaN.

    Raises
    ------
    InputError
        There are fewer than two draws, shapes differ, a variance is negative, or an option is unknown.

    Notes
    -----
    The total variance is within + (1 + 1/draws) between (Rubin 1987, *Multiple Imputation for Nonresponse in Surveys*,
    section 3.1). Degrees of freedom follow Barnard & Rubin 1999, doi 10.1093/biomet/86.4.948. The information of a
    t-distribution is (df + 1) / (df + 3) / variance; `lost` is the missing share of it, which for infinite `df` is Rubin's
    fraction of missing information.
    """
    _check_options(level, scale)
    if labels is None and isinstance(estimates, pd.DataFrame):
        labels = estimates.columns
    q = np.asarray(estimates, float)
    q = q[:, None] if q.ndim == 1 else q
    _check_number_of_draws(len(q))
    between = (q - q[0]).var(axis=0, ddof=1)  # exactly 0 if all draws are equal
    within = np.zeros_like(between)
    if variances is not None:
        u = np.asarray(variances, float)
        u = u[:, None] if u.ndim == 1 else u
        if u.shape != q.shape or (u < 0).any():
            raise InputError(
                "The variances do not match the estimates.",
                got=f"shape {u.shape}, {(u < 0).sum()} of them negative",
                expected=f"shape {q.shape}, squared standard errors",
                do="pass one variance for each estimate",
            )
        within = u.mean(axis=0)
    known_df = np.broadcast_to(np.asarray(np.inf if df is None or variances is None else df, float), between.shape)
    total = within + (1 + 1 / len(q)) * between
    pooled_df = _degrees_of_freedom(len(q), within, between, known_df)
    table = _describe(q.mean(axis=0), total, pooled_df, level, scale)
    with np.errstate(invalid="ignore", divide="ignore"):
        lost = 1 - within / total * _information(pooled_df) / _information(known_df)
    slope = 1 - table["estimate"].to_numpy() ** 2 if scale == "fisher_z" else 1.0
    table = table.assign(df=pooled_df, within=within * slope**2, between=between * slope**2, lost=lost)
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
    """Run an analysis on every draw of the harmonized data, and pool the results by Rubin's rules.

    Parameters
    ----------
    function : callable
        Function of the (scan, feature) values of a draw, which are read-only. It returns ``estimate``, ``(estimate,
        variance)`` or ``(estimate, variance, df)``, each a number, an array or a Series by quantity; or a DataFrame with
        these columns. The variance is the squared standard error. Use :func:`group_difference`, :func:`contrast`,
        :func:`correlation`, :func:`estimator_score`, or your own function.
    draws : (draw, scan, feature) array, or iterable of (scan, feature) arrays
        `Harmonized.draws`, or a file of draws opened with ``numpy.load(file, mmap_mode="r")``: draws are read one at a
        time.
    df : float or (quantity,) array, optional
        Degrees of freedom of the analysis, if the function returns none; default: infinite.
    level : float
        Confidence level of the intervals.
    labels : sequence, optional
        Names of the quantities, such as `Harmonized.names`; default: the index of the function's result.

    Returns
    -------
    DataFrame by quantity
        As from :func:`pool`. If the function returns no variance, `within`, `lost` and `p` are NaN, and `se` and the
        interval contain the uncertainty of harmonization only, not that of the sample or of noise.

    Raises
    ------
    InputError
        There are fewer than two draws, or the results of the function are invalid or differ in shape between draws.
    """
    _check_options(level)
    if hasattr(draws, "draws"):
        raise InputError("`draws` must be an array of draws.", got=f"a {type(draws).__name__}", expected="its draws",
                         do="pass harmonized.draws")  # fmt: skip
    if draws is None:
        raise InputError("There are no draws.", got="None", expected="draws", do="harmonize with, for example, draws=20")
    labeled = list(map(partial(_run, function), draws))  # `map` releases each draw before it reads the next
    _check_number_of_draws(len(labeled))
    results = [result for result, _ in labeled]
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
        labels=labeled[0][1] if labels is None else labels,
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
    """Compare an analysis with and without the uncertainty of harmonization.

    Parameters
    ----------
    function, draws, df, level, labels
        As in :func:`propagate`.
    mean : (scan, feature) array
        `Harmonized.mean`, for the analysis without uncertainty.

    Returns
    -------
    DataFrame by quantity
        As from :func:`propagate`; then `estimate_plain`, `se_plain`, `lower_plain`, `upper_plain` and `p_plain`: the
        analysis of `mean`, which ignores the uncertainty of harmonization.

    Raises
    ------
    InputError
        As in :func:`propagate`.
    """
    table = propagate(function, draws, df=df, level=level, labels=labels)
    plain, _ = _run(function, mean)
    variance = np.full(np.shape(plain.estimate), np.nan) if plain.variance is None else plain.variance
    plain_df = next((candidate for candidate in (plain.df, df) if candidate is not None), np.inf)
    without = _describe(plain.estimate, variance, np.broadcast_to(plain_df, variance.shape), level, plain.scale)
    return table.join(without[COMPARED].add_suffix("_plain").set_axis(table.index))


def _run(function: Callable[[np.ndarray], Any], values: ArrayLike) -> tuple[FeatureEstimates, pd.Index | None]:
    """Run the function on a draw; return arrays by quantity, and the names of the quantities if it returns them."""
    draw = np.asarray(values).view()
    if draw.ndim != 2:
        raise InputError(
            "A draw does not have the shape scans × features.",
            got=f"an array of shape {draw.shape}",
            expected="draws of shape (scan, feature) each",
            do="pass a (draw, scan, feature) array, such as Harmonized.draws, or an iterable of (scan, feature) arrays",
        )
    draw.flags.writeable = False
    result = function(draw)
    try:
        if isinstance(result, pd.DataFrame):
            estimates = FeatureEstimates(result["estimate"], result.get("variance"), result.get("df"))
        else:
            estimates = FeatureEstimates(*result) if isinstance(result, tuple) else FeatureEstimates(result)
        index = estimates.estimate.index if isinstance(estimates.estimate, pd.Series) else None
        estimate = np.atleast_1d(np.array(estimates.estimate, float))  # a copy, so that the draw can be released
        variance, df = (
            None if array is None else np.broadcast_to(np.asarray(array, float), estimate.shape) for array in estimates[1:3]
        )
        if result is None:
            raise TypeError("nothing was returned")
        if estimate.ndim > 1:
            raise ValueError(f"estimates of shape {estimate.shape}")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            "The function returned an invalid result.",
            got=f"{type(result).__name__}: {error}",
            expected="estimate, (estimate, variance) or (estimate, variance, df), numbers or arrays by quantity",
            do="return a tuple of these, or a DataFrame with these columns",
        ) from None
    return FeatureEstimates(estimate, variance, df, estimates.scale), index


def _degrees_of_freedom(n_draws: int, within: np.ndarray, between: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Compute the degrees of freedom of Barnard & Rubin; `known`, those of the analysis, if all draws are equal."""
    with np.errstate(invalid="ignore", divide="ignore"):
        share = within / (within + (1 + 1 / n_draws) * between)
        observed = np.where(np.isinf(known), np.inf, _information(known) * known * share)
        pooled = 1 / ((1 - share) ** 2 / (n_draws - 1) + 1 / observed)
    return np.where(between == 0, known, pooled)


def _information(df: np.ndarray) -> np.ndarray:
    """Return the information of a t-distribution relative to a normal one of the same scale, (df + 1) / (df + 3)."""
    return 1 - 2 / (df + 3)


def _describe(estimate: np.ndarray, variance: np.ndarray, df: np.ndarray, level: float, scale: str) -> pd.DataFrame:
    """Return a table of `estimate`, `se`, `lower`, `upper` and `p` by quantity."""
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


def _name(table: pd.DataFrame, labels: Sequence[Any] | pd.Index) -> pd.DataFrame:
    """Use labels as the index of a table."""
    index = labels if isinstance(labels, pd.Index) else pd.Index(list(labels))
    if len(index) != len(table):
        raise InputError(
            "The labels do not match the quantities.",
            got=f"{len(index)} labels",
            expected=f"{len(table)}, one for each quantity",
            do="pass the names of the quantities that the function returns, such as Harmonized.names",
        )
    return table.set_axis(index)


def _check_number_of_draws(n_draws: int) -> None:
    if n_draws < 2:
        raise InputError(
            "There are too few draws to estimate the uncertainty of harmonization.",
            got=f"{n_draws} draw{'s' * (n_draws != 1)}",
            expected="2 draws or more",
            do="harmonize with draws=20 or more",
        )


def _check_options(level: float, scale: str = "identity") -> None:
    if not 0 < level < 1 or scale not in ("identity", "fisher_z"):
        raise InputError(
            "An option is not valid.",
            got=f"level={level!r}, scale={scale!r}",
            expected="level between 0 and 1, scale 'identity' or 'fisher_z'",
            do="use one of these",
        )
