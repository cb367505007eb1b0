"""A posterior made by hand: what it says is known, and nothing needs to be fitted."""

from dataclasses import replace

import numpy as np
import xarray as xr

from bayesharm.data.dataset import Dataset
from bayesharm.likelihood.moments import compute_moments
from bayesharm.model.catalog import load_model
from bayesharm.model.design import build_design
from bayesharm.model.spec import ModelSpec
from bayesharm.results.nodes import keep_statistics, level_coordinates, scale_coordinates
from bayesharm.results.posterior import FORMAT, REASONS, Posterior
from bayesharm.results.schema import GROUPS, LEVEL

SCANNERS = ("A", "B", "C")


def make_posterior(
    model: str = "traveling",
    features: tuple[str, ...] = ("f0", "f1", "f2", "f3"),
    not_converged: tuple[str, ...] = (),
    **run: object,
) -> Posterior:
    """Three scanners; effects of mean ``10 * scanner``, centered, and sd ``scanner + 1 + feature / 10``."""
    spec = load_model(model)
    effects = {family.name: family.by for family in spec.families if family.by == "scanner"}
    families = ["noise", *(family.name for family in spec.families)]
    n_features, n_families = len(features), len(families)
    rng = np.random.default_rng(0)
    feature = ("feature", np.array(features, dtype=object))
    scanner = ("scanner", np.array(SCANNERS, dtype=object))
    family = {
        "family": ("family", np.array(families, dtype=object)),
        "term": ("family", np.array(families, dtype=object)),
        "group": ("family", np.full(len(families), "", dtype=object)),
    }
    mean = np.repeat([[-10.0], [0.0], [10.0]], n_features, axis=1)
    sd = 1.0 + np.arange(3)[:, None] + np.arange(n_features) / 10
    scales = {
        name: (("family", "feature"), rng.uniform(1, 2, (n_families, n_features)))
        for name in ("mean", "sd", "q05", "q50", "q95")
    }
    per_feature = {
        "divergences": np.zeros(n_features, int),
        "khat": np.full(n_features, 0.1),
        "feature_scale": np.full(n_features, 2.0),
        "center": np.zeros(n_features),
        "converged": ~np.isin(features, not_converged),
        "reason": np.where(np.isin(features, not_converged), REASONS.index("R-hat"), 0).astype(np.int8),
        "n_draws": np.full(n_features, 800),
        "leapfrog_steps": np.full(n_features, 2400),
    }
    draws = (4, 250)
    ratio = rng.normal(0, 0.1, (*draws, 3))
    ratio -= ratio.mean(2, keepdims=True)
    nodes = {
        "/hyper": xr.Dataset(
            {
                "eta": (("chain", "draw", "family"), rng.normal(-1, 0.1, (*draws, n_families))),
                "omega": (("chain", "draw", "family"), rng.uniform(0.2, 0.4, (*draws, n_families))),
                "noise_ratio": (("chain", "draw", "scanner"), np.exp(ratio)),
                "bias_ratio": (("chain", "draw", "scanner"), np.ones_like(ratio)),
                "gain": (("chain", "draw", "scanner"), np.ones_like(ratio)),
            },
            coords={**family, "scanner": scanner, "chain": np.arange(4), "draw": np.arange(250)},
            attrs={"divergences": 0, "features": n_features, "n_independent_features": float(n_features)},
        ),
        "/scales": xr.Dataset(
            scales
            | {
                "ess_bulk": (("family", "feature"), np.full((n_families, n_features), 900.0)),
                "rhat": (("family", "feature"), np.full((n_families, n_features), 1.001)),
            }
            | {name: (("feature",), values) for name, values in per_feature.items()},
            coords={**family, "feature": feature},
        ),
        "/error_patterns": xr.Dataset(
            {
                "error_pattern": (("entry", "feature"), np.eye(n_features, dtype="float32")),
                "residual_dof": (("feature",), np.full(n_features, 1000)),
            }
        ),  # fmt: skip
        "/design": xr.Dataset(
            {
                "component": (("scanner",), [0, 0, 1]),
                "n_scans": (("scanner",), [20, 20, 20]),
                "n_travelers": (("scanner",), [2, 2, 0]),
                "n_single_scan": (("scanner",), [10, 10, 20]),
            },
            coords={"scanner": scanner},
        ),
    }
    for name in effects:
        nodes[f"/effects/{name}"] = xr.Dataset(
            {
                "mean": (("scanner", "feature"), mean),
                "sd": (("scanner", "feature"), sd),
                "contraction": (("scanner",), [0.9, 0.8, 0.2]),
                "n_scans": (("scanner",), [20, 20, 20]),
                "correlation": (("scanner", "other"), np.eye(3) - (1 - np.eye(3)) / 2),
            },
            coords={"scanner": scanner, "feature": feature},
        )
    return Posterior(
        xr.DataTree.from_dict(nodes),
        {
            "format": FORMAT,
            "spec": spec.to_dict(),
            "seed": 1,
            "settings": {},
            "versions": {"bayesharm": "0.1.0"},
            "fingerprint": "",
            "n_scans": 30,
            "n_features": n_features,
            "dropped": {},
            "dtype": "float64",
            "n_converged": n_features - len(not_converged),
            "leapfrog": {"mean": 3.0, "max_over_mean": 1.1},
            "notes": ["C: one scan only."],
            **run,
        },
    )


def add_sources(found: Posterior) -> Posterior:
    """Give a posterior made by hand the sizes of its sources: the k-th family has k + 1, a tenth of it uncertain."""
    families, features = found.tree["scales"]["family"].values, found.features
    mean = np.add.outer(np.arange(len(families)) + 1.0, np.arange(len(features)) / 100)
    statistics = np.stack([mean, 0.1 * mean, 0.85 * mean, mean, 1.15 * mean])
    dims, pair = ("statistic", "family", "feature"), ("family", "other", "feature")
    variance = np.eye(len(families))[..., None] * (0.1 * mean) ** 2
    found.tree["finite_population"] = xr.DataTree(xr.Dataset({
        "finite_sd": (dims, statistics), "contribution": (dims, statistics / 100), "finite_covariance": (pair, variance),
        "covariance_with_log_scale": (("size", "family", "feature"), np.zeros((3, *mean.shape))),
        "probability_larger": (pair, (mean[:, None] > mean).astype(float)),
        "family": families,
    }))  # fmt: skip
    return found


def make_learned(
    dataset: Dataset,
    spec: ModelSpec,
    scales: dict[str, np.ndarray] | None = None,
    ratio: dict[str, float] | None = None,
) -> Posterior:
    """A posterior that keeps the statistics of scans, at scales and noise ratios of its own; its effects say nothing.

    Scales are by name, in the features' units; random ones by default, as noise ratios are.
    """
    design = build_design(dataset.scans, spec)
    n_features = dataset.features.n_features
    moments, standard = compute_moments(design, dataset.features.read(0, n_features))
    rng = np.random.default_rng(0)
    middle = np.exp(rng.normal(np.log(design.scale_medians)[:, None], 0.4, (len(design.scales), n_features))) * standard.sd
    relative = np.exp(rng.normal(0, 0.3, (2, 5, len(design.scanners))))
    if scales is not None:
        middle = np.stack([scales[name] for name in design.scale_labels])
    size = np.exp(rng.normal(0, 0.3, relative.shape)) if spec.bias_ratio == "scanner" else np.ones(relative.shape)
    if ratio is not None:
        size = np.ones(relative.shape)
        relative = np.broadcast_to([ratio[name] for name in design.scanners], relative.shape)
    log_gain = rng.normal(0, 0.2, len(design.scanners)) + rng.normal(0, 0.03, relative.shape)
    gain = np.where(design.gain_is_known & (spec.gain == "scanner"), np.exp(log_gain), 1.0)
    feature = ("feature", np.array(dataset.features.names, dtype=object))
    scanner = ("scanner", np.array(design.scanners, dtype=object))
    slopes = {}
    if design.correlations:
        rho = np.tanh(rng.normal(-0.4, 0.1, (2, 5, len(design.correlations))))
        families = ("slope_family", np.array(design.correlations, dtype=object))
        slopes["slope_correlation"] = xr.DataArray(rho, {"slope_family": families}, ("chain", "draw", "slope_family"))
    nodes = {
        "/hyper": xr.Dataset(
            slopes
            | {
                "noise_ratio": (("chain", "draw", "scanner"), relative),
                "bias_ratio": (("chain", "draw", "scanner"), size),
                "gain": (("chain", "draw", "scanner"), gain),
            },
            coords={"scanner": scanner},
            attrs={"n_independent_features": float(n_features)},
        ),
        "/scales": xr.Dataset(
            {name: (("family", "feature"), size * middle) for name, size in (("q50", 1.0), ("mean", 1.1), ("sd", 0.2))}
            | {"center": ("feature", standard.center), "feature_scale": ("feature", standard.sd)}
            | {"converged": ("feature", np.full(n_features, True))},
            coords={**scale_coordinates(design), "feature": feature},
        ),
        "/error_patterns": xr.Dataset(
            {
                "error_pattern": (("entry", "feature"), np.eye(n_features, dtype="float32")),
                "residual_dof": (("feature",), np.full(n_features, 1000)),
            }
        ),  # fmt: skip
        "/design": xr.Dataset(
            coords={"scanner": scanner}, attrs={"site_travelers": list(design.site_travelers), "n_scans": design.n_scans}
        ),
        "/sufficient_statistics": keep_statistics(dataset.scans, design, moments),
    }
    for group in design.effects:
        n_levels = len(group.levels)
        nodes[f"/effects/{group.name}"] = xr.Dataset(
            {name: ((group.dim, "feature"), np.zeros((n_levels, n_features))) for name in ("mean", "sd")}
            | {"n_scans": (group.dim, np.ones(n_levels, int))},
            coords={**level_coordinates(design, group), "feature": feature},
        )
    run = {"format": FORMAT, "spec": design.spec.to_dict(), "seed": 1, "settings": {}, "versions": {}}
    return Posterior(xr.DataTree.from_dict(nodes), run | {"notes": ["As it was."]})


def complete(posterior: Posterior) -> Posterior:
    """Fill in, with NaN, the arrays that every run has and that a posterior made by hand lacks."""
    sizes = {
        "chain": 2,
        "draw": 5,
        **{str(dim): size for node in posterior.tree.subtree for dim, size in node.sizes.items()},
    }
    tree = posterior.tree.copy()
    for group in GROUPS:
        for node in [node for node in tree.subtree if group.matches(node.path.strip("/"))]:
            level = next((str(array.dims[0]) for array in node.data_vars.values()), LEVEL)
            for variable in group.variables:
                if not variable.optional and variable.name not in node:
                    dims = tuple(level if dim == LEVEL else dim for dim in variable.dims)
                    node[variable.name] = xr.DataArray(np.full([sizes[dim] for dim in dims], np.nan), dims=dims)
    return replace(posterior, tree=tree)
