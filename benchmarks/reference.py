"""Make ``models/<name>/reference.json``: long runs of the explicit NumPyro model on the fixed small study.

    python benchmarks/reference.py [model …]

Each number stands with its Monte-Carlo error; the checks (R-hat, effective sample size, divergences) stand beside them.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version

import numpy as np
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin

from bayesharm import load_dataset
from bayesharm.datasets.reference_study import N_FEATURES, reference_study, reference_study_over_years
from bayesharm.model.catalog import load_model, model_names, models_folder
from bayesharm.model.configure import configure_model
from bayesharm.model.design import build_design
from bayesharm.reference_models.numpyro_model import sample_explicit

N_CHAINS, N_WARMUP, N_DRAWS = 4, 700, 1500
LONGER = {"protocol": (2000, 8000)}  # warmup and draws: five scanners hardly tell factors apart, and chains move slowly
FEWER = {"protocol": 8, "longitudinal": 8}  # features, so that the test, which samples them together, is short


def _round(values: np.ndarray) -> list:
    """Five significant digits."""
    return np.vectorize(lambda value: float(f"{value:.5g}"), otypes=[float])(values).tolist()


def summarize(draws: np.ndarray) -> dict[str, list]:
    """Mean, sd and their Monte-Carlo errors of draws (chain, draw, …)."""
    sd, ess = draws.std((0, 1), ddof=1), effective_sample_size(draws)
    return {
        "mean": _round(draws.mean((0, 1))),
        "sd": _round(sd),
        "mcse_mean": _round(sd / np.sqrt(ess)),
        "mcse_sd": _round(sd / np.sqrt(2 * ess)),
    }


def make(model: str) -> None:
    make_study = reference_study_over_years if load_model(model).slopes else reference_study
    scans, features = make_study(FEWER.get(model, N_FEATURES))
    dataset = load_dataset(scans, features)
    design = build_design(dataset.scans, configure_model(model, dataset))
    started = time.time()
    n_warmup, n_draws = LONGER.get(model, (N_WARMUP, N_DRAWS))
    posterior = sample_explicit(design, features, seed=1, n_chains=N_CHAINS, n_warmup=n_warmup, n_draws=n_draws)
    draws = {
        "eta": posterior.hyper["eta"].values,
        "omega": posterior.hyper["omega"].values,
        "log_ratio": posterior.hyper["log_ratio"].values,
        "log_scale": np.log(posterior.scales.values),
    }
    if design.spec.bias_ratio == "scanner":
        draws["log_bias_ratio"] = posterior.hyper["log_bias_ratio"].values
    if design.correlations:
        draws["slope_correlation"] = posterior.hyper["slope_correlation"].values
    draws |= {f"effect_{name}": effect.values for name, effect in posterior.effects.items()}
    moving = [array for array in draws.values() if array.size]
    checks = {
        "rhat_max": float(max(np.max(split_gelman_rubin(array)) for array in moving)),
        "ess_min": float(min(np.min(effective_sample_size(array)) for array in moving)),
        "divergences": int(posterior.sampler["diverging"].values.sum()),
    }
    reference = {
        "study": f"bayesharm.datasets.reference_study.{make_study.__name__}({features.shape[1]})",
        "n_features": features.shape[1],
        "sampler": "bayesharm.reference_models.numpyro_model.sample_explicit",
        "settings": {"seed": 1, "chains": N_CHAINS, "warmup": n_warmup, "draws": n_draws},
        "versions": {name: version(name) for name in ("bayesharm", "numpyro", "jax")},
        "families": list(design.scale_labels),
        "scanners": list(design.scanners),
        "checks": checks,
        "summaries": {name: summarize(array) for name, array in draws.items()},
    }
    text = json.dumps(reference)
    (models_folder() / model / "reference.json").write_text(text + "\n", encoding="utf-8")
    print(model, len(design.rows), "scans", checks, f"{time.time() - started:.0f} s", flush=True)


if __name__ == "__main__":
    for name in sys.argv[1:] or model_names():
        make(name)
