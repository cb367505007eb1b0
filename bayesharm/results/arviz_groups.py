"""Groups of ArviZ for the quantities that all features share: their draws, their prior draws and log prior densities."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from bayesharm.model.labels import NOISE_RATIO
from bayesharm.model.spec import ModelSpec
from bayesharm.results.schema import SCANNER_RATIOS

SEED = 0  # of the prior draws


def to_groups(hyper: xr.Dataset, spec: ModelSpec) -> xr.DataTree:
    """Return the groups `posterior`, `prior` and `log_prior`, without quantities that the model fixes.

    Parameters
    ----------
    hyper : Dataset
        The group ``/hyper`` of a run.
    spec : ModelSpec
    """
    posterior = hyper[[name for name in hyper.data_vars if _varies(hyper[name])]]
    log_prior = xr.Dataset(log_priors(posterior, spec), attrs={"description": "log prior densities of the draws"})
    groups = {"/posterior": posterior, "/prior": draw_prior(posterior, spec), "/log_prior": log_prior}
    # arviz.plot_prior_posterior uses the name `group` itself
    return xr.DataTree.from_dict({name: node.drop_vars(["term", "group"], errors="ignore") for name, node in groups.items()})


def _varies(draws: Any) -> bool:
    return bool((draws.std(("chain", "draw")) > 0).any())


def log_priors(hyper: Any, spec: ModelSpec) -> dict[str, Any]:
    """Compute the log prior density of each draw, up to a constant, by the quantity that it is of; (chain, draw) each.

    Densities are those of the quantities for which :class:`bayesharm.model.spec.Priors` states the prior: eta,
    omega_excess, the logarithms of the ratios of scanners, atanh rho, and the share of values with Student-t noise.
    """
    priors = spec.priors
    found: dict[str, Any] = {}
    if "eta" in hyper:
        found["eta"] = -0.5 * (((hyper["eta"] - _log_medians(hyper, spec)) / priors.eta_sd) ** 2).sum("family")
    if "omega" in hyper:
        excess_square = hyper["omega"] ** 2 - priors.omega_floor**2
        found["omega"] = -0.5 * (excess_square / priors.omega_sd**2).sum("family")
    for name, sd in ratio_sds(spec).items():
        if name in hyper:
            found[name] = _log_prior_of_ratios(np.log(hyper[name]), sd)
    if "slope_correlation" in hyper:
        rho = np.arctanh(hyper["slope_correlation"]) / priors.correlation_sd
        found["slope_correlation"] = -0.5 * (rho**2).sum("slope_family")
    if "tail_share" in hyper:
        found["tail_share"] = (1 / priors.tail_share - 2) * np.log1p(-hyper["tail_share"])
    return found


def ratio_sds(spec: ModelSpec) -> dict[str, float]:
    """Prior sd of the logarithm of each ratio of scanners, before it is centered."""
    priors = spec.priors
    return dict(zip(SCANNER_RATIOS, (priors.noise_ratio_sd, priors.bias_ratio_sd, priors.gain_sd), strict=True))


def _log_medians(hyper: Any, spec: ModelSpec) -> xr.DataArray:
    """Prior means of eta, by family."""
    medians = {"noise": spec.noise_scale, NOISE_RATIO: 1.0} | {each.name: each.prior_median for each in spec.families}
    medians |= {each.slope_name: each.slope_prior_median for each in spec.slopes}
    return xr.DataArray([np.log(medians[str(term)]) for term in hyper["term"].values], dims="family")


def _log_prior_of_ratios(logs: Any, sd: float) -> Any:
    """Log density of centered logarithms of ratios; scanners without a ratio of their own are constant."""
    values, n_scanners = logs.values, logs.sizes["scanner"]
    values = values[..., values.std((0, 1)) > 0]
    own = values.shape[-1]
    precision = np.linalg.pinv(sd**2 * (np.eye(own) - 1 / n_scanners), hermitian=True)
    return logs.isel(scanner=0, drop=True).copy(data=-0.5 * np.einsum("cdi,ij,cdj->cd", values, precision, values))


def draw_prior(hyper: Any, spec: ModelSpec, seed: int = SEED) -> xr.Dataset:
    """Draw the same quantities from their hyperpriors, as many times as there are posterior draws."""
    rng, priors = np.random.default_rng(seed), spec.priors
    drawn: dict[str, Any] = {}

    def normal(name: str, sd: float) -> Any:
        return hyper[name].copy(data=sd * rng.standard_normal(hyper[name].shape))

    if "eta" in hyper:
        eta = (_log_medians(hyper, spec) + normal("eta", priors.eta_sd)).transpose(*hyper["eta"].dims)
        drawn["eta"] = eta.where(hyper["family"] != NOISE_RATIO, 0.0)
    if "omega" in hyper:
        drawn["omega"] = np.hypot(normal("omega", priors.omega_sd), priors.omega_floor)
    for name, sd in ratio_sds(spec).items():
        if name in hyper:
            logs, has_own = normal(name, sd), hyper[name].std(("chain", "draw")) > 0
            drawn[name] = np.exp(logs - logs.mean("scanner")).where(has_own, 1.0)
    if "slope_correlation" in hyper:
        drawn["slope_correlation"] = np.tanh(normal("slope_correlation", priors.correlation_sd))
    if "tail_share" in hyper:
        shape = hyper["tail_share"].shape
        drawn["tail_share"] = hyper["tail_share"].copy(data=rng.beta(1, 1 / priors.tail_share - 1, shape))
        drawn["tail_df"] = hyper["tail_df"].copy(data=1 / rng.uniform(size=shape))
    return xr.Dataset(drawn)
