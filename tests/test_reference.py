"""The staged posterior equals the explicit NumPyro posterior within Monte-Carlo error, for every model.

The references were made once by `benchmarks/reference.py`. False-alarm rate 2e-5 for each model's test: the largest of
n standardized differences is compared with the normal quantile at 1 - 1e-5 / n.
"""

import numpy as np
import pytest
from numpyro.diagnostics import effective_sample_size
from scipy.stats import kurtosis, norm

from bayesharm import fit, load_dataset
from bayesharm.datasets import reference_study
from bayesharm.fitting import scheduler
from bayesharm.model.catalog import load_reference, model_names

DRAWS = {"draws": 500, "effect_draws": 400, "block_size": 6, "keep_draws": "all"}


@pytest.mark.parametrize("model", model_names())
def test_staged_posterior_is_the_explicit_one(model, monkeypatch):
    # the explicit model counts all features in full
    monkeypatch.setattr(scheduler, "_count_independent", lambda context, features: float(len(features)))
    reference = load_reference(model)
    n_features = reference["n_features"]
    assert reference["checks"]["rhat_max"] < 1.01 and reference["checks"]["ess_min"] > 400
    make_study = getattr(reference_study, reference["study"].split(".")[-1].split("(")[0])
    posterior = fit(load_dataset(*make_study(n_features)), model, seed=1, **DRAWS)
    assert posterior.run["n_converged"] >= 0.9 * n_features  # a feature that has not converged is marked

    ours = {}
    log_scale = np.log(posterior.tree["draws"]["scales"].values)
    ours["log_scale"] = (log_scale.mean(0), log_scale.std(0), posterior.tree["scales"]["ess_bulk"].values)
    heavy_tails = {"log_scale": np.sqrt((kurtosis(log_scale, fisher=False) - 1) / 2)}  # of an sd's error; normal: 1
    for name in posterior.tree["effects"].children:
        effect = posterior.effect(name)
        ours[f"effect_{name}"] = (effect["mean"].values, effect["sd"].values, DRAWS["effect_draws"])
    hyper = posterior.tree["hyper"]
    for name in ("eta", "omega"):
        draws = hyper[name].values
        ours[name] = (draws.mean((0, 1)), draws.std((0, 1)), effective_sample_size(draws))
    for name, ratio in (("log_ratio", "noise_ratio"), ("log_bias_ratio", "bias_ratio")):
        logs = np.log(hyper[ratio].values)
        if name in reference["summaries"]:
            ours[name] = (logs.mean((0, 1)), logs.std((0, 1)), 800)

    if "slope_correlation" in reference["summaries"]:
        draws = hyper["slope_correlation"].values
        ours["slope_correlation"] = (draws.mean((0, 1)), draws.std((0, 1)), effective_sample_size(draws))

    omega = hyper["omega"].values.reshape(-1, hyper.sizes["family"])
    heavy_tails["omega"] = np.sqrt((kurtosis(omega, fisher=False) - 1) / 2)

    # NUTS is antithetic: squares are less independent than values, and their effective number is that of the sd's error
    chains = log_scale.reshape(4, -1, *log_scale.shape[1:])
    ess_of_squares = {"log_scale": effective_sample_size((chains - log_scale.mean(0)) ** 2)}

    worst = {}
    for name, (mean, sd, ess) in ours.items():
        theirs = {key: np.array(value) for key, value in reference["summaries"][name].items()}
        mean_error = np.sqrt(theirs["mcse_mean"] ** 2 + sd**2 / ess)
        worst[name] = (
            np.abs((mean - theirs["mean"]) / mean_error),
            np.abs(sd - theirs["sd"])
            / (np.hypot(theirs["mcse_sd"], sd / np.sqrt(2 * ess_of_squares.get(name, ess))) * heavy_tails.get(name, 1.0)),
        )
    print({name: [round(float(part.max()), 1) for part in parts] for name, parts in worst.items()})
    n = sum(part.size for parts in worst.values() for part in parts)
    limit = norm.isf(1e-5 / n)
    for name, parts in worst.items():
        for part in parts:
            assert part.max() < limit, (name, part.max(axis=-1).round(1), limit)
