"""Prior sensitivity: how far the headline numbers of a run depend on its hyperpriors.

The hyperpriors are raised to a power: above 1 they are narrower, below 1 wider. Importance weights of the posterior draws
show what the posterior would be then, without another fit (Kallioinen, Paananen, Bürkner & Vehtari, *Statistics and
Computing* 34, 2024). All hyperpriors are Normal or half-Normal, but for that of the share of bad values: the power 2 divides
their sds by √2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

from bayesharm.analysis.headline_draws import Headline, headline_draws, of_one_scanner
from bayesharm.analysis.units import common_units
from bayesharm.errors import check_type, listed
from bayesharm.results.arviz_groups import log_priors, ratio_sds
from bayesharm.results.console import as_text, bullets, make_table
from bayesharm.results.posterior import Posterior
from bayesharm.results.schema import SCANNER_RATIOS
from bayesharm.results.tables import Tables

if TYPE_CHECKING:
    from rich.console import Group

WEAKER, STRONGER = 0.5, 2.0  # powers of the hyperpriors: their sds times √2, and divided by √2
NEARLY_ONE = (0.99, 1.01)  # powers from which the sensitivity is computed, as a derivative
THRESHOLD = 0.05  # of a sensitivity: about a shift of 0.3 posterior sds when the power doubles
LEAST_CHANGE = 0.05  # of the mean, over the value, between wider and narrower hyperpriors, that is worth a remark
LEAST_LOG_RATIO = 0.2  # the same of the posterior sd
MAX_KHAT = 0.7  # Pareto-k above which weights are not reliable
CONFLICT = "prior and data may disagree"
WEAK = "the data say little"
MAX_ROWS = 30  # of the printed table; flagged numbers come first
NAMES = {
    "eta": "typical scales", "omega": "spread of scales over features", "noise_ratio": "noise ratios of scanners",
    "bias_ratio": "bias ratios of scanners", "gain": "gains of scanners",
    "slope_correlation": "correlations of intercepts and slopes",
}  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class PriorSensitivity(Tables):
    """Dependence of the headline numbers on the hyperpriors.

    Attributes
    ----------
    about : dict
        `model`, `units` of scales and biases, `n_draws`, `threshold` and `preview`.
    numbers : DataFrame by kind and name
        `value`, posterior mean, with its 90% interval; `weaker` and `stronger`, the posterior mean if the hyperpriors were
        √2 times as wide, or as narrow; `prior` and `likelihood`, the sensitivity to the power of hyperpriors and of the
        likelihood (above 0.05: sensitive); `hyperprior`, the one with the most influence; `diagnosis`, empty if the
        number is not sensitive to the hyperpriors, or wider and narrower ones change the mean by less than 5% and the
        posterior sd by less than 20%; `khat`, the Pareto-k of the weights (above 0.7, `weaker` and `stronger` are rough).
    notes : tuple of str
        Caveats.
    """

    about: dict[str, Any]
    numbers: pd.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def flagged(self) -> pd.DataFrame:
        """The numbers that depend on the hyperpriors, most sensitive first."""
        return self.numbers[self.numbers["diagnosis"] != ""].sort_values("prior", ascending=False, kind="stable")

    def conclusions(self) -> list[str]:
        """State which numbers depend on the hyperpriors, and how far."""
        flagged = self.flagged
        if not len(flagged):
            return ["No number depends on the priors: wider or narrower ones give nearly the same."]
        kinds = [kind for kind in self.numbers.index.unique("kind") if kind in flagged.index]
        sentences = [_conclude(kind, flagged.loc[kind], len(self.numbers.loc[kind])) for kind in kinds]
        rest = len(self.numbers) - len(flagged)
        return [*sentences, f"All other numbers ({rest}) hardly depend on the priors."] if rest else sentences

    def __str__(self) -> str:
        return as_text(self)

    def __rich__(self) -> Group:
        return render_sensitivity(self)


def _conclude(kind: str, flagged: pd.DataFrame, n_all: int) -> str:
    (first, *others), row = [str(name) for name in flagged.index], flagged.iloc[0]
    return (
        f"{kind[0].upper()}{kind[1:]}: {len(flagged)} of {n_all} depend{'s' * (len(flagged) == 1)} on the priors. The most "
        f"sensitive is {first}: {row.value:.3g}, but {row.weaker:.3g} with wider and {row.stronger:.3g} with narrower "
        f"priors ({row.diagnosis})." + (f" Also: {listed(others, 3)}." if others else "")
    )


def prior_sensitivity(posterior: Posterior) -> PriorSensitivity:
    """Compute how far the headline numbers of a run depend on its hyperpriors, without another fit.

    The numbers are the scale of each source (mean over features), its share of the variance of a typical feature, the
    scale of sampling bias and disorders over that of measurement bias, the bias of each scanner (root mean square over
    features), and the ratios of scanners.

    The sensitivity is that of Kallioinen et al. (2024): the derivative of the cumulative Jensen-Shannon distance by log2 of
    the power. If a number is sensitive to both prior and likelihood, they may disagree. If it is sensitive to the prior
    alone, the data say little about it. The likelihood is that of a Gaussian posterior, as where a fit lets correlated
    features count as fewer.

    Parameters
    ----------
    posterior : Posterior
        Previews and adapted posteriors will do.

    Returns
    -------
    PriorSensitivity
    """
    check_type(posterior, Posterior, "prior_sensitivity", "load_posterior")
    hyper: Any = posterior.hyper
    densities = {name: part.values for name, part in log_priors(hyper, posterior.spec).items()}
    densities = {name: part for name, part in (densities | _of_scanners(posterior)).items() if np.ptp(part) > 0}
    rows, weights = [], _Weights(densities, _log_likelihoods(posterior, densities))
    for headline in headline_draws(posterior):
        if depends_on := tuple(name for name in headline.depends_on if name in densities):
            rows.append(_row(headline, depends_on, weights))
    numbers = pd.DataFrame(rows).set_index(["kind", "name"])
    return PriorSensitivity(
        about={
            "model": posterior.spec.name,
            "units": common_units(posterior),
            "n_draws": hyper.sizes["chain"] * hyper.sizes["draw"],
            "threshold": THRESHOLD,
            "preview": bool(posterior.preview_notice),
        },
        numbers=numbers,
        notes=tuple(filter(None, [posterior.preview_notice, _on_weights(numbers)])),
    )


def _on_weights(numbers: pd.DataFrame) -> str:
    rough = numbers.index[numbers["khat"] > MAX_KHAT]
    if not len(rough):
        return ""
    names = listed([f"{name} ({kind})" for kind, name in rough], 5)
    return f"The values with wider and narrower hyperpriors are rough for {names}: fit with other priors to be sure."


def _row(headline: Headline, depends_on: tuple[str, ...], weights: _Weights) -> dict[str, Any]:
    draws = headline.draws
    (weaker, k_weaker), (stronger, k_stronger) = (weights.scaled(depends_on, power) for power in (WEAKER, STRONGER))
    (low_mean, low_sd), (high_mean, high_sd) = (_moments(draws, each) for each in (weaker, stronger))
    prior, likelihood = (weights.sensitivity(draws, part, depends_on) for part in ("prior", "likelihood"))
    by_name = {name: weights.sensitivity(draws, "prior", (name,)) for name in depends_on}
    moves = abs(high_mean - low_mean) > LEAST_CHANGE * abs(draws.mean()) or abs(np.log(high_sd / low_sd)) > LEAST_LOG_RATIO
    low, high = np.quantile(draws, (0.05, 0.95))
    return {
        "kind": headline.kind, "name": headline.name, "value": draws.mean(), "value_q05": low, "value_q95": high,
        "weaker": low_mean, "stronger": high_mean, "prior": prior, "likelihood": likelihood,
        "hyperprior": NAMES[max(by_name, key=lambda name: by_name[name]).partition(":")[0]],
        "diagnosis": "" if prior < THRESHOLD or not moves else CONFLICT if likelihood >= THRESHOLD else WEAK,
        "khat": max(k_weaker, k_stronger),
    }  # fmt: skip


def _moments(draws: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    mean = (weights * draws).sum()
    return float(mean), float(np.sqrt((weights * (draws - mean) ** 2).sum()))


class _Weights:
    """Log densities of the draws, (chain, draw), by array of ``/hyper``, and weights of powers of them."""

    def __init__(self, priors: Mapping[str, np.ndarray], likelihoods: Mapping[str, np.ndarray]) -> None:
        self._densities = {"prior": priors, "likelihood": likelihoods}
        self._scaled: dict[Any, tuple[np.ndarray, float]] = {}
        self._nearly: dict[Any, list[np.ndarray]] = {}

    def _log_density(self, part: str, names: tuple[str, ...]) -> np.ndarray:
        """Log density of these arrays; the likelihood of eta and omega is one."""
        densities = self._densities[part]
        return sum((densities[name] for name in names if name in densities), np.zeros(()))

    def scaled(self, names: tuple[str, ...], power: float) -> tuple[np.ndarray, float]:
        """Return smoothed weights of a power of the prior, (chain, draw), which sum to 1, and their Pareto-k."""
        from arviz_stats.base import array_stats

        if (names, power) not in self._scaled:
            log_weights, khat = array_stats.psislw(-(power - 1) * self._log_density("prior", names), axis=(0, 1))
            weights = np.exp(log_weights - log_weights.max())
            self._scaled[names, power] = weights / weights.sum(), float(khat)
        return self._scaled[names, power]

    def sensitivity(self, draws: np.ndarray, part: str, names: tuple[str, ...]) -> float:
        """Return the sensitivity of a number to the power of the prior or of the likelihood of some arrays."""
        from arviz_stats.base import array_stats

        if (part, names) not in self._nearly:
            log_density = self._log_density(part, names)
            weights = [np.exp(array_stats.power_scale_lw(log_density, alpha, axis=(0, 1))) for alpha in NEARLY_ONE]
            self._nearly[part, names] = [each / each.sum() for each in weights]
        lower, upper = self._nearly[part, names]
        return float(
            array_stats.power_scale_sense(
                draws, lower, upper, lower_alpha=NEARLY_ONE[0], upper_alpha=NEARLY_ONE[1], chain_axis=0, draw_axis=1
            )
        )


def _of_scanners(posterior: Posterior) -> dict[str, np.ndarray]:
    """Log prior density of the ratios of each scanner alone, (chain, draw), by their names."""
    hyper: Any = posterior.hyper
    found, n_scanners = {}, hyper.sizes["scanner"]
    for name, sd in ratio_sds(posterior.spec).items():
        for k, scanner in enumerate(hyper["scanner"].values):
            logs = np.log(hyper[name].values[..., k])
            found[of_one_scanner(name, str(scanner))] = -0.5 * logs**2 / (sd**2 * (1 - 1 / n_scanners))
    return found


def _log_likelihoods(posterior: Posterior, densities: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Log likelihood of the draws, (chain, draw): their density as a Gaussian over the prior, itself as a Gaussian."""
    hyper: Any = posterior.hyper
    maps = dict.fromkeys(SCANNER_RATIOS, np.log) | {"slope_correlation": np.arctanh}
    found = {
        name: _log_gaussian(to_normal(hyper[name].values)) - densities[name]
        for name, to_normal in maps.items()
        if name in densities
    }
    for name in SCANNER_RATIOS:
        for k, scanner in enumerate(hyper["scanner"].values):
            if (own := of_one_scanner(name, str(scanner))) in densities:
                found[own] = _log_gaussian(np.log(hyper[name].values[..., [k]])) - densities[own]
    if "eta" in densities:
        priors, log_omega = posterior.spec.priors, np.log(hyper["omega"].values)
        half_normal = np.log(np.hypot(priors.omega_sd * ndtri(0.5 + (np.arange(2000) + 0.5) / 4000), priors.omega_floor))
        of_omega = -0.5 * (((log_omega - half_normal.mean()) / half_normal.std()) ** 2).sum(-1)
        together = np.concatenate([hyper["eta"].values, log_omega], axis=-1)
        found["eta"] = _log_gaussian(together) - densities["eta"] - of_omega
    return found


def _log_gaussian(draws: np.ndarray) -> np.ndarray:
    """Log density of draws, (chain, draw, parameter), of a Gaussian with their moments; it may be singular."""
    pooled = draws.reshape(-1, draws.shape[-1])
    away = draws - pooled.mean(0)
    precision = np.linalg.pinv(np.atleast_2d(np.cov(pooled.T)), rcond=1e-9, hermitian=True)
    return -0.5 * np.einsum("cdi,ij,cdj->cd", away, precision, away)


def render_sensitivity(sensitivity: PriorSensitivity) -> Group:
    """Render the conclusions and the numbers, flagged ones first."""
    from rich.console import Group

    numbers = pd.concat([sensitivity.flagged, sensitivity.numbers[sensitivity.numbers["diagnosis"] == ""]])
    title = "Prior sensitivity"
    if len(numbers) > MAX_ROWS:
        title += f" ({MAX_ROWS} of {len(numbers)} numbers; all of them: bayesharm sensitivity RUN --out FOLDER)"
    table = make_table(
        title,
        "Wider, narrower: posterior mean if the sds of all hyperpriors were √2 times as large, or as small. Prior, "
        f"likelihood: sensitivity to their power; above {THRESHOLD} the prior matters (*). Scale: mean over features. Bias: "
        f"root mean square. Units: {sensitivity.about['units']}.",
        ["number", "value", "wider", "narrower", "prior", "likelihood"],
    )
    for (kind, name), row in numbers.head(MAX_ROWS).iterrows():
        cells = [f"{row[column]:.3g}" for column in ("value", "weaker", "stronger")]
        mark = " *" if row.diagnosis else ""
        table.add_row(f"{kind}, {name}{mark}", *cells, f"{row.prior:.2f}", f"{row.likelihood:.2f}")
    return Group(bullets("Conclusions", sensitivity.conclusions()), table, bullets("Caveats", sensitivity.notes))
