"""Results of the inference, labelled: arrays inside, names outside."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from bayesharm.algorithms.diagnostics import MAX_RHAT, diagnose
from bayesharm.algorithms.random_streams import Stage
from bayesharm.conditional.identifiability import identify
from bayesharm.data.dataset import Dataset
from bayesharm.fitting.feature_summary import leapfrog
from bayesharm.inference.hyperparameters import Hyperparameters
from bayesharm.inference.variance_ratios import pick_features
from bayesharm.likelihood.layout import lay_out
from bayesharm.likelihood.moments import Moments
from bayesharm.model.design import Design
from bayesharm.results.nodes import NODE, keep_statistics, label_effects, scale_coordinates
from bayesharm.results.posterior import FORMAT, PREVIEW, REASONS, Posterior


def label_posterior(
    dataset: Dataset,
    design: Design,
    hyper: Hyperparameters,
    results: dict[str, np.ndarray],
    plan: dict[str, Any],
) -> Posterior:
    """Arrays become a labelled tree.

    Parameters
    ----------
    dataset : Dataset
    design : Design
    hyper : Hyper
    results : dict of arrays
        Summaries of all features, the feature axis last; effects in the order of ``design.effects``.
    plan : dict
        Seed, settings, versions and fingerprint of the features, as recorded in ``run.json``.
    """
    feature = ("feature", np.asarray(dataset.features.names, dtype=object))
    family = scale_coordinates(design)
    rng = np.random.default_rng([plan["seed"], Stage.RATIO])
    n_chains, n_draws = hyper.eta.shape[:2]
    ratio = rng.multivariate_normal(hyper.log_ratio.mean, hyper.log_ratio.covariance, (n_chains, n_draws), method="eigh")
    of_noise, of_bias = np.split(np.exp(ratio), 2, axis=-1)
    of_bias[..., ~np.isin(np.arange(len(design.scanners)), design.bias_ratio_of)] = 1.0  # biases of no size of their own
    scanner = ("scanner", np.array(design.scanners, dtype=object))
    shared = np.concatenate([hyper.eta, np.log(hyper.omega)], axis=-1)[..., None]
    verdict = diagnose(shared, np.zeros((*shared.shape[:2], 1), bool))
    nodes = {
        "/": xr.Dataset(
            attrs={"title": design.spec.title, "model": design.spec.name}
            | ({"preview": PREVIEW} if plan["settings"]["preview"] else {})
        ),
        "/hyper": xr.Dataset(
            {
                "eta": (("chain", "draw", "family"), hyper.eta),
                "omega": (("chain", "draw", "family"), hyper.omega),
                "noise_ratio": (("chain", "draw", "scanner"), of_noise),
                "bias_ratio": (("chain", "draw", "scanner"), of_bias),
            },
            coords={**family, "scanner": scanner},
            attrs={
                "units": "eta, omega: natural logarithm of scales in standard deviations of a feature; noise_ratio, "
                "bias_ratio: variances, geometric mean 1, their draws independent of those of eta and omega",
                "divergences": hyper.diverging,
                "rhat_max": float(np.nanmax(verdict.rhat)),
                "ess_bulk_min": float(np.nanmin(verdict.ess_bulk)),
                "features": len(hyper.khat),
                "features_of_ratios": len(pick_features(len(hyper.khat))),
                "features_effective": hyper.log_ratio.n_effective,
                "khat_above_0.7": float((hyper.khat > 0.7).mean()),
            }
            | {
                f"importance_{name}": float(value)
                for name, value in zip(("khat", "ess"), hyper.importance, strict=True)
                if np.isfinite(value)
            },
        ),
        "/scales": xr.Dataset(
            {
                name: (("family", "feature"), results[name])
                for name in ("mean", "sd", "q05", "q50", "q95", "ess_bulk", "rhat")
            }
            | {
                name: (("feature",), results[name])
                for name in ("divergences", "khat", "converged", "reason", "draws", "steps", "center", "unit")
            },
            coords={**family, "feature": feature},
            attrs={
                "units": "of the feature",
                "interval": "q05 to q95: 90%",
                "converged": f"bulk R-hat < {MAX_RHAT}, bulk ESS >= {plan['settings']['target_ess']}, no divergence",
                "reason": ", ".join(f"{code}: {reason}" for code, reason in enumerate(REASONS)),
            },
        ),
    }
    moments = Moments(*(results[name] for name in Moments._fields))
    nodes[f"/{NODE}"] = keep_statistics(dataset.scans, design, lay_out(design), moments).assign_coords(feature=feature)
    study = identify(design, np.log(_typical_scales(design, results)), hyper.log_ratio.mean)
    told = {name: rows.set_index("level") for name, rows in study.contrasts.groupby("group")}
    stops = np.cumsum([len(group.levels) for group in design.effects])[:-1]
    effects = zip(*(np.split(results[f"effect_{name}"], stops) for name in ("mean", "sd")), strict=True)
    effect_nodes = label_effects(
        design,
        {group.name: pair for group, pair in zip(design.effects, effects, strict=True)},
        {group.name: told[group.name].contraction[list(group.levels)].to_numpy(float) for group in design.effects},
        {group.name: told[group.name].n_scans[list(group.levels)].to_numpy(int) for group in design.effects},
        study.correlation,
        np.asarray(dataset.features.names, dtype=object),
    )
    nodes |= {f"/effects/{name}": node for name, node in effect_nodes.items()}
    scanners = study.scanners.loc[list(design.scanners)]
    nodes["/design"] = xr.Dataset(
        {name: (("scanner",), scanners[name].to_numpy(int)) for name in ("component", "n_scans", "n_travelers", "n_once")},
        coords={"scanner": scanner},
        attrs={"travelers": list(design.travelers), "n_scans": design.n_scans},
    )
    if "finite_sd" in results:
        statistic = ("statistic", np.array(["mean", "sd", "q05", "q50", "q95"], dtype=object))
        nodes["/sources"] = xr.Dataset(
            {name: (("statistic", "family", "feature"), results[name]) for name in ("finite_sd", "contribution")}
            | {name: (("family", "other", "feature"), results[name]) for name in ("finite_covariance", "larger")}
            | {"with_scale": (("size", "family", "feature"), results["with_scale"])},
            coords={
                "statistic": statistic,
                **family,
                "other": ("other", family["family"][1]),
                "feature": feature,
                "size": ("size", np.array(["tau", "finite_sd", "contribution"], dtype=object)),
            },
            attrs={
                "with_scale": "posterior covariance of a size with the natural logarithm of its family's scale",
                "finite_sd": "standard deviation of the effects that are there, in units of the feature",
                "contribution": "mean over scans of the squared effect over the sum of all and the squared residual, "
                "divided by the number of levels; noise: share of the squared residual",
                "finite_covariance": "posterior covariance of the finite_sd of two families",
                "larger": "posterior probability that the finite_sd of `family` is larger than that of `other`",
            },
        )
    if "kept" in results:
        nodes["/draws"] = xr.Dataset(
            {"scales": (("draw", "family", "feature"), results["kept"])},
            coords={**family, "feature": feature},
        )
    run: dict[str, Any] = {
        "format": FORMAT,
        "spec": design.spec.to_dict(),
        "seed": plan["seed"],
        "settings": plan["settings"],
        "versions": plan["versions"],
        "devices": plan["devices"],
        "fingerprint": plan["features"],
        "scans": plan["scans"],
        "data": dict(dataset.origin) if dataset.origin else None,
        "n_scans": design.n_scans,
        "n_features": len(dataset.features.names),
        "n_converged": int(results["converged"].sum()),
        "leapfrog": leapfrog(results, plan["settings"]["chains"]),
        "dropped": dict(dataset.dropped),
        "dtype": str(dataset.features.dtype),
        "notes": list(study.sentences()),
    }
    return Posterior(xr.DataTree.from_dict(nodes), run)


def _typical_scales(design: Design, results: dict[str, np.ndarray]) -> np.ndarray:
    """Median over features of the posterior median of each scale, in standard deviations of the feature."""
    typical = np.nanmedian(results["q50"] / results["unit"], axis=1)
    return np.where(np.isfinite(typical), typical, design.scale_medians)
