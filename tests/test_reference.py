"""The staged posterior equals the explicit NumPyro posterior within Monte-Carlo error, for every model.

The references were made once by `benchmarks/reference.py`. False-alarm rate 2e-5 for each model's test: the largest of
n standardized differences is compared with the normal quantile at 1 - 1e-5 / n.
"""

from functools import cache

import numpy as np
import pytest
from numpyro.diagnostics import effective_sample_size
from scipy.stats import kurtosis, norm

from bayesharm import Posterior, fit, harmonize, load_dataset, summarize, variance_components
from bayesharm.datasets import reference_study
from bayesharm.fitting import scheduler
from bayesharm.model.catalog import load_reference, model_names

DRAWS = {"draws": 500, "effect_draws": 400, "block_size": 6, "keep_draws": "all"}


def study_of(model: str):
    reference = load_reference(model)
    make_study = getattr(reference_study, reference["study"].split(".")[-1].split("(")[0])
    return load_dataset(*make_study(reference["n_features"]))


@cache
def fitted(model: str) -> Posterior:
    with pytest.MonkeyPatch.context() as patch:
        # the explicit model counts all features in full
        patch.setattr(scheduler, "_count_independent", lambda context, features: float(len(features)))
        return fit(study_of(model), model, seed=1, **DRAWS)


@pytest.mark.parametrize(
    "model", [pytest.param(name, marks=() if name == "traveling" else pytest.mark.slow) for name in model_names()]
)
def test_staged_posterior_is_the_explicit_one(model):
    reference, posterior = load_reference(model), fitted(model)
    assert reference["checks"]["rhat_max"] < 1.01 and reference["checks"]["ess_min"] > 400
    assert posterior.run["n_converged"] >= 0.9 * reference["n_features"]  # a feature that has not converged is marked

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


def test_results_of_a_study_over_years_are_in_the_units_of_their_columns():
    """Effects per year, sizes for one sd of the years; what harmonizing removes has no slope."""
    posterior, dataset = fitted("longitudinal"), study_of("longitudinal")
    years, repeated = dataset.scans.time, dataset.scans.participant_id.duplicated(keep=False)
    sd = {"participant_time": np.sqrt((years[repeated] ** 2).mean()), "disorder_time": years.std(ddof=0)}
    feature_sd, sizes = posterior.scales["feature_scale"].values, summarize(posterior).effect_sizes
    components = variance_components(posterior)
    for name, unit in sd.items():
        effect = posterior.effect(name)
        square = ((effect["mean"] ** 2 + effect["sd"] ** 2) / feature_sd**2).values.mean()
        assert sizes.rms_in_sd[name] == pytest.approx(unit * square**0.5)
        # the finite-population sd is about 0 for diagnoses, and about their own mean for people
        finite = posterior.finite_population["finite_sd"].sel(family=name, statistic="mean") / feature_sd
        assert float(finite.mean()) == pytest.approx(sizes.rms_in_sd[name], rel=0.2)
    assert {*components.levels.index.unique("family")} == {"measurement", "sampling", "disorder"}
    assert (
        "participant_time: change of the participant effects for one typical time since the first scan (time)"
        in components.about["slopes"]
    )
    assert (posterior.hyper["gain"] == 1).all()

    bias = posterior.effect("measurement")["mean"].to_pandas().loc[dataset.scans.scanner]
    values = dataset.features.read(0, dataset.features.n_features)
    np.testing.assert_allclose(harmonize(posterior, dataset).mean, values - bias.to_numpy())
