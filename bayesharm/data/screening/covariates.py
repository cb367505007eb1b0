"""Meaning of covariates: measured by the scanner itself, or nearly the scanner under another name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy import sparse, stats

from bayesharm.data.finding import Finding
from bayesharm.data.screening.words import DATES, VISITS, ages_in_years, is_age, is_elapsed_time, tokens
from bayesharm.io.numbers import is_text

FALSE_ALARMS = 0.001  # rate of the test for differences between scanners within people
NEARLY = 0.9  # share of a covariate's variance between scanners, from which it nearly equals the scanner


def screen_covariates(scans: pd.DataFrame, covariates: Sequence[str] = ()) -> Iterator[Finding]:
    """Find covariates that carry the scanner back into the harmonized features, or that stand for the scanner."""
    for name in dict.fromkeys(covariates):
        if name not in scans:
            continue
        if is_text(scans[name]):
            yield from _category_is_scanner(scans, name)
        elif pd.api.types.is_numeric_dtype(scans[name]):
            values = scans[name].to_numpy(float)
            known = np.isfinite(values)
            if known.sum() > 2 and values[known].std() > 0:
                yield from _differs_within_people(scans[known], name, values[known])
                yield from _is_scanner(scans[known], name, values[known])


def _differs_within_people(scans: pd.DataFrame, name: str, values: np.ndarray) -> Iterator[Finding]:
    """A covariate that scanners measure differently in the same people; ages and times differ by themselves."""
    if is_age(name) or is_elapsed_time(name) or tokens(name) & (DATES | VISITS):
        return
    people = scans.groupby("participant_id")["scanner"].transform("nunique").to_numpy() > 1
    if not people.any():
        return
    person, scanner = scans["participant_id"][people], scans["scanner"][people]
    # runs of one visit are not independent: one value for each person and scanner
    means = pd.DataFrame({"person": person, "scanner": scanner, "y": values[people]})
    means = means.groupby(["person", "scanner"], sort=False, as_index=False)["y"].mean()
    person, scanner, y = means["person"], means["scanner"], means["y"].to_numpy()
    raw = pd.Series(y, scanner.index)
    if (y > 0).all() and abs(stats.skew(np.log(y))) < abs(stats.skew(y)):
        y = np.log(y)  # skewed measures, such as head motion: the test needs roughly normal residuals
    p, effect = test_scanners(y, person, scanner)
    if not p < FALSE_ALARMS:
        return
    by_scanner = test_scanners(raw.to_numpy(), person, scanner)[1] if effect is not None else None
    low, high = (by_scanner.idxmin(), by_scanner.idxmax()) if by_scanner is not None else ("", "")
    spread = pd.Series(values).groupby(scans["participant_id"].to_numpy()).mean().std()
    width = by_scanner.max() - by_scanner.min() if by_scanner is not None else np.nan
    yield Finding(
        "covariate-of-scanner",
        "caveat",
        f"The covariate {name!r} differs between scanners in the same people: its linear effect carries this difference "
        "back into the harmonized features.",
        got=f"{width:.4g} more on {high!r} than on {low!r} in {person.nunique()} travelers; sd between people "
        f"{spread:.4g} (p = {p:.1g}; false alarms for {FALSE_ALARMS:.1%} of covariates)",
        expected="covariates that are the same for a person on every scanner, such as sex, or that were measured otherwise",
        do=f"leave {name!r} out, or use one value for each person, or harmonize it first as a feature",
        columns=(name,),
    )


def test_scanners(y: np.ndarray, person: pd.Series, scanner: pd.Series) -> tuple[float, pd.Series | None]:
    """Test for differences between scanners within people: F test of the scanners in ``y = person + scanner + error``.

    Returns
    -------
    p : float
        NaN if there is nothing to compare.
    effect : Series by scanner, optional
        Least-squares differences between scanners, with mean 0.
    """
    (person_code, people), (code, scanners) = pd.factorize(person), pd.factorize(scanner, sort=True)
    n = len(y)
    of_person = sparse.csr_array((np.ones(n), (np.arange(n), person_code)), shape=(n, len(people)))
    indicators = np.eye(len(scanners))[code]

    def within(x: np.ndarray) -> np.ndarray:
        return x - of_person @ ((of_person.T @ x) / np.bincount(person_code).reshape(-1, *[1] * (x.ndim - 1)))

    x, r = within(indicators), within(np.asarray(y, float))
    coefficients, _, rank, _ = np.linalg.lstsq(x, r, rcond=1e-9)
    fitted = x @ coefficients
    rank = int(rank)
    dof = n - len(people) - rank
    explained, rest = float(fitted @ fitted), float(np.sum((r - fitted) ** 2))
    tiny = 1e-20 * float(np.sum((y - y.mean()) ** 2))
    if rank == 0 or dof < 1 or explained <= tiny:
        return np.nan, None
    p = 0.0 if rest <= tiny else float(stats.f.sf(explained / rank / (rest / dof), rank, dof))
    return p, pd.Series(coefficients - coefficients.mean(), scanners)


def _is_scanner(scans: pd.DataFrame, name: str, values: np.ndarray) -> Iterator[Finding]:
    """A number that is nearly the same in all scans of a scanner."""
    code, scanners = pd.factorize(scans["scanner"], sort=True)
    n, k = len(code), len(scanners)
    means = np.bincount(code, values) / np.bincount(code)
    within, total = np.sum((values - means[code]) ** 2), np.sum((values - values.mean()) ** 2)
    if n - k < 2:
        return
    share = 1 - within / total * (n - 1) / (n - k)  # adjusted R²: many small scanners explain much by chance
    if share >= NEARLY:
        yield _nearly_scanner(name, f"scanners explain {share:.1%} of its variance: {_levels(scanners, means)}", share == 1)


def _category_is_scanner(scans: pd.DataFrame, name: str) -> Iterator[Finding]:
    """A category that nearly follows from the scanner."""
    labels = scans[name].astype(str)
    table = pd.crosstab(scans["scanner"], labels).to_numpy(float)
    n, (n_scanners, n_categories) = table.sum(), table.shape
    if n_categories < 2 or n_scanners < 2 or n - n_scanners < 2:
        return
    entropy = stats.entropy(table.sum(0))
    within = float(np.sum(table.sum(1) / n * stats.entropy(table, axis=1)))
    known = (1 - within / entropy) if entropy > 0 else 0.0
    if known >= NEARLY:
        yield _nearly_scanner(name, f"the scanner tells {known:.0%} of it", within == 0)


def _nearly_scanner(name: str, got: str, is_exact: bool) -> Finding:
    return Finding(
        "covariate-is-scanner",
        "caveat",
        f"The covariate {name!r} is nearly the same in all scans of a scanner: its effect cannot be told from the "
        "scanners' biases.",
        got=got,
        expected="a covariate that varies within scanners",
        do=f"leave {name!r} out of the covariates"
        + (": not even travelers separate the two" if is_exact else ", unless travelers separate the two"),
        columns=(name,),
    )


def _levels(scanners: pd.Index, means: np.ndarray) -> str:
    pairs = [f"{mean:.4g} on {scanner}" for scanner, mean in zip(scanners, means, strict=True)]
    return ", ".join(pairs[:4]) + (" …" if len(pairs) > 4 else "")


def covariate_matrix(scans: pd.DataFrame, covariates: Sequence[str]) -> np.ndarray:
    """Return the constant and the covariates as columns, (scan, column); categories as indicators, gaps as means."""
    columns = [np.ones(len(scans))]
    for name in dict.fromkeys(covariates):
        if name not in scans:
            continue
        if is_text(scans[name]):
            columns += list(pd.get_dummies(scans[name].astype(str), dtype=float).to_numpy().T[1:])
        elif pd.api.types.is_numeric_dtype(scans[name]):
            values = ages_in_years(name, scans[name]) if is_age(name) else scans[name].to_numpy(float)
            if np.isfinite(values).any():
                columns.append(
                    np.where(np.isfinite(values), values, np.nanmean(np.where(np.isfinite(values), values, np.nan)))
                )
    return np.column_stack(columns)
