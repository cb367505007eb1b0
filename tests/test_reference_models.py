"""The reference models: NumPyro, PyMC and a density computed scan by scan from the scans table agree."""

import os
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from scipy.stats import beta, halfnorm, multivariate_normal, norm
from scipy.stats import t as student
from studies import EXTENDED, extend

from bayesharm.errors import BayesharmError, InputError
from bayesharm.model.catalog import load_model, model_names
from bayesharm.model.configure import configure_model
from bayesharm.model.design import FIXED, build_design
from bayesharm.model_check.agreement import LIMIT, collapsed_densities, random_point
from bayesharm.model_check.suited_study import N_FEATURES, random_features, suited_scans
from bayesharm.reference_models import numpyro_model as explicit
from bayesharm.reference_models import pymc_model
from bayesharm.reference_models.marginal import explicit_densities


@pytest.fixture(scope="module")
def pymc():
    """The PyMC reference; where PyMC is not installed its tests are skipped, but fail in CI."""
    missing = [name for name in ("pymc", "nutpie") if find_spec(name) is None]
    if not missing:
        return pymc_model
    reason = f"needs {' and '.join(missing)}: pip install 'bayesharm[pymc]' and run the tests again"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def table_of(rows) -> pd.DataFrame:
    """Scans from tuples (participant, scanner, site, diagnosis), with an age."""
    scans = pd.DataFrame(rows, columns=["participant_id", "scanner", "site", "diagnosis"])
    scans.insert(0, "scan_id", [f"scan-{n}" for n in range(len(scans))])
    return scans.assign(age=20.0 + np.arange(len(scans)) * 7 % 40)


def small_study() -> pd.DataFrame:
    """Travelers on two of four scanners each, a cohort at four sites, one of it scanned twice there; nobody travels to E."""
    travelers = [(f"T{i}", "ABCD"[(i + k) % 4], "home", "HC") for i in range(5) for k in (0, 1)]
    cohort = [(f"C{i}", "ABCE"[i % 4], f"site{i % 4}", ("HC", "MDD")[i // 4 % 2]) for i in range(16)]
    scans = table_of(travelers + [*cohort, cohort[0]])
    rng = np.random.default_rng(0)
    return scans.assign(
        Manufacturer=scans.scanner.map(dict(zip("ABCDE", "GGSSG", strict=True))),
        PhaseEncodingDirection=scans.scanner.map(dict(zip("ABCDE", ["j", "j-", "j", "j", "j"], strict=True))),
        family_id=[f"family{int(name[1:]) // 2}" for name in scans.participant_id],
        operator=rng.choice(["Ada", "Bo"], len(scans)),
        coil=rng.choice(["8ch", "32ch"], len(scans)),
        time=rng.uniform(0, 3, len(scans)),
        years=rng.uniform(0, 6, len(scans)),
        relative_noise=rng.uniform(0.3, 2, len(scans)),
    )


SPECS = {name: load_model(name) for name in model_names()} | {
    "homoscedastic": replace(load_model("traveling_and_cohort"), noise_ratio="homogeneous", bias_ratio="homogeneous"),
    "covariate": replace(load_model("cohort"), covariates=("age",)),
    "shared units": replace(load_model("cohort"), feature_scaling="common"),
    "student-t": replace(load_model("traveling_and_cohort"), likelihood="student-t"),
    **{name: extend(name) for name in EXTENDED},
}


def density_by_hand(scans, features, spec, design, point) -> float:
    """Log joint density scan by scan, from the table; the design only names the columns and scales."""
    counts = scans.participant_id.value_counts()
    travelers = [p for p, rows in scans.groupby("participant_id") if rows.scanner.nunique() > 1]
    used = scans[scans.participant_id.isin(travelers)] if spec.participants == "travelers" else scans
    scanners, visited = sorted(set(used.scanner)), set(scans.scanner[scans.participant_id.isin(travelers)])
    is_repeated = used.participant_id.map(counts) > 1
    y = features[used.index]
    own = y.std(0)
    y = (y - y.mean(0)) / (own if spec.feature_scaling == "per_feature" else np.sqrt((own**2).mean()))
    feature_offset = point["feature_offset"] if spec.feature_scaling == "per_feature" else 0.0
    families = {family.name: family for family in spec.families}
    u = dict(zip(design.column_labels, point["u"], strict=True))
    log_scale = dict(zip(design.scale_labels, point["log_scale"], strict=True))

    def ratio(name, of=scanners):
        log = point.get(name, np.zeros(len(scanners)))
        return {k: np.exp(value) if k in of else 1.0 for k, value in zip(scanners, log - log.mean(), strict=True)}

    noise_ratio, gain = ratio("raw"), ratio("raw_gain", visited)
    bias_ratio = ratio("raw_bias", visited if "sampling" in families else scanners)
    relative_noise = used[spec.noise_weight] if spec.noise_weight else np.ones(len(used))
    relative_noise = relative_noise / np.exp(np.log(relative_noise).mean())
    rounded = 1.15 ** np.round(np.log(relative_noise) / np.log(1.15))
    relative_noise = np.where(is_repeated, relative_noise, rounded)

    def level_of(family, scan):
        if family.by == "participant":
            return scan.participant_id if counts[scan.participant_id] > 1 else None
        if family.by == "population":
            return None if scan.participant_id in travelers else f"{scan.site}/{scan.diagnosis}"
        if family.by in ("scanner", "diagnosis"):
            return None if scan[family.by] == "HC" else scan[family.by]
        if family.is_factor:
            return scan[family.by] if family.by in scan else None
        outer = [family.nested_in] if family.nested_in else []
        return "/".join(scan[name] for name in [*outer, *family.by.split(" × ")])

    def distance(family):
        """Of each scan from where slopes count."""
        if family.by != "participant":
            x = used[family.slope] - used[family.slope].mean()
            return (x / np.sqrt((x**2).mean())).to_numpy()
        x = used[family.slope] - used.groupby("participant_id")[family.slope].transform("min")
        return (x / np.sqrt((x[is_repeated] ** 2).mean())).to_numpy()

    own_sd = {}  # of the part of a covariate that the others do not explain
    for name in spec.covariates:
        others = np.column_stack([np.ones(len(used)), used[[other for other in spec.covariates if other != name]]])
        own_sd[name] = np.std(used[name] - others @ np.linalg.lstsq(others, used[name])[0])
    distances = {name: distance(family) for name, family in families.items() if family.slope}
    total = 0.0
    for row, (_, scan) in enumerate(used.iterrows()):
        of_scanner, of_people, g = u["mean:mean"], 0.0, gain[scan.scanner]
        for name, family in families.items():
            if (level := level_of(family, scan)) is None:
                continue
            effect = u[f"{name}:{level}"]
            if family.slope:
                effect = effect + distances[name][row] * u[f"{name}_{family.slope}:{level}"]
            if name == "sibling" or family.by in ("participant", "population", "diagnosis"):
                of_people = of_people + effect
            else:
                of_scanner = of_scanner + effect
        for name in spec.covariates:
            of_people = of_people + u[f"covariate:{name}"] * (scan[name] - used[name].mean()) / own_sd[name]
        variance = np.exp(2 * log_scale["noise"]) * noise_ratio[scan.scanner] * relative_noise[row]
        if spec.noise_ratio == "scanner-feature":
            variance = variance * np.exp(2 * log_scale[f"noise_ratio_{scan.scanner}"])
        if counts[scan.participant_id] == 1:
            variance = variance + g**2 * np.exp(2 * log_scale["participant"])
        mean, sd = of_scanner + g * of_people, np.sqrt(variance)
        density = norm.logpdf(y[row], mean, sd)
        if spec.likelihood == "student-t":
            share = point["tail_share"]
            heavy = student.logpdf(y[row], 1 / point["inverse_df"], mean, sd)
            density = np.log((1 - share) * np.exp(density) + share * np.exp(heavy))
        total += density.sum()

    if spec.likelihood == "student-t":
        total += beta.logpdf(point["tail_share"], 1, 9)
    fixed = {"mean": spec.priors.mean_sd, "covariate": spec.priors.slope_sd}
    slopes = {family.slope_name: family for family in spec.families if family.slope}
    rho = dict(zip([f.name for f in slopes.values()], np.tanh(point.get("slope_correlation", [])), strict=True))
    for name, effect in u.items():
        family, level = name.split(":")
        if family in fixed:
            total += norm.logpdf(effect, 0, fixed[family]).sum()
            continue
        if family in slopes:
            continue  # together with the intercept
        sd = np.exp(log_scale[f"sampling_{level.split('/')[1]}" if family == "sampling" else family])
        if family == spec.removed_effect:
            sd = sd * bias_ratio[level] ** 0.5
        if not families[family].slope:
            total += norm.logpdf(effect, 0, sd).sum()
            continue
        slope_name = f"{family}_{families[family].slope}"
        for intercept, slope, one, other in zip(
            effect, u[f"{slope_name}:{level}"], sd, np.exp(log_scale[slope_name]), strict=True
        ):
            between = rho[family] * one * other
            total += multivariate_normal.logpdf([intercept, slope], None, [[one**2, between], [between, other**2]])
    medians = {"noise": spec.noise_scale} | {name: family.prior_median for name, family in families.items()}
    medians |= {name: family.slope_prior_median for name, family in slopes.items()}
    etas, omegas = list(point["eta"]), list(np.sqrt(point["omega_excess"] ** 2 + 0.05**2))
    for name, values in log_scale.items():
        if name.startswith("noise_ratio_"):
            total += norm.logpdf(values, 0, omegas[-1]).sum()
            continue
        eta, median = etas.pop(0), medians["sampling" if name.startswith("sampling_") else name]
        total += norm.logpdf(eta, np.log(median), spec.priors.eta_sd)
        total += norm.logpdf(values, eta + feature_offset, omegas.pop(0)).sum()
    assert not etas and len(omegas) == (spec.noise_ratio == "scanner-feature")
    total += halfnorm.logpdf(point["omega_excess"], scale=spec.priors.omega_sd).sum()
    if spec.feature_scaling == "per_feature":
        total += norm.logpdf(feature_offset, 0, spec.priors.feature_offset_sd).sum()
    for name, sd in (("raw", "noise_ratio_sd"), ("raw_bias", "bias_ratio_sd"), ("raw_gain", "gain_sd"),
                     ("slope_correlation", "correlation_sd")):  # fmt: skip
        total += norm.logpdf(point.get(name, []), 0, getattr(spec.priors, sd)).sum()
    return total


@pytest.fixture(scope="module", params=SPECS)
def witnessed(request):
    """A design with its features, random points, and the density written by hand at each."""
    rng = np.random.default_rng(5)
    scans = small_study()
    spec = configure_model(SPECS[request.param], scans)  # the mean slope of time is a covariate
    features = 3 + rng.normal(size=(len(scans), 2)) * [0.1, 0.3]
    design = build_design(scans, spec)
    points = [random_point(design, 2, rng) for _ in range(3)]
    by_hand = [density_by_hand(scans, features, spec, design, point) for point in points]
    return design, features, points, by_hand


def test_numpyro_density_is_the_one_written_by_hand(witnessed):
    design, features, points, by_hand = witnessed
    with jax.enable_x64(True):
        density = jax.jit(partial(explicit.traced_log_joint, design, features))
        densities = [density(point) for point in points]
    np.testing.assert_allclose(densities, by_hand, rtol=1e-12)


def test_pymc_density_is_the_one_written_by_hand(witnessed, pymc):
    design, features, points, by_hand = witnessed
    densities = [pymc.log_joint(design, features, point) for point in points]
    np.testing.assert_allclose(densities, by_hand, rtol=1e-12)


@pytest.mark.parametrize("name", sorted(SPECS.keys() - set(model_names()) - {"student-t"}))
def test_the_collapsed_density_is_the_explicit_one_integrated_over_effects(name):
    """For variants; `test_models_command` checks the models themselves."""
    rng, scans = np.random.default_rng(6), small_study()
    design, features = build_design(scans, SPECS[name]), random_features(len(scans), rng)
    points = [random_point(design, N_FEATURES, rng) for _ in range(3)]
    explicit = explicit_densities(design, features, points).marginal
    np.testing.assert_allclose(collapsed_densities(design, features, points), explicit, rtol=LIMIT)


def test_densities_that_differ_are_found():
    """The collapsed density of another noise: people scanned once without their participant effect."""
    rng, spec = np.random.default_rng(7), load_model("traveling_and_cohort")
    scans = suited_scans(spec)
    design, features = build_design(scans, spec), random_features(len(scans), rng)
    points = [random_point(design, N_FEATURES, rng) for _ in range(2)]
    other = replace(design, class_single_scan=np.zeros_like(design.class_single_scan))
    explicit = explicit_densities(design, features, points).marginal
    assert (np.abs(collapsed_densities(design, features, points) / explicit - 1) < LIMIT).all()
    assert (np.abs(collapsed_densities(other, features, points) / explicit - 1) > 1e-4).all()


UNIT = 0.05  # features as small numbers far from 0, so that a missing unit shows


@pytest.fixture(scope="module")
def simulated():
    """A study drawn from the model: design, features, true scales and measurement bias in their units."""
    travelers = [(f"T{i}", scanner, "home", "HC") for i in range(6) for scanner in "ABCD" for _ in range(2)]
    cohort = [(f"C{i}", "ABC"[i % 3], f"site{i % 3}", ("HC", "MDD")[i // 3 % 2]) for i in range(60)]
    scans = table_of(travelers + cohort)
    design = build_design(scans, load_model("traveling_and_cohort"))
    rng = np.random.default_rng(11)
    assert design.scale_labels == ("noise", "participant", "measurement", "sampling_HC", "sampling_MDD", "disorder")
    scale = np.array([[0.8], [0.5], [0.4], [0.3], [0.3], [0.3]]) * np.exp(0.3 * rng.normal(size=(6, 2)))
    u = scale[design.column_scale] * rng.normal(size=(len(design.columns), 2))
    u[design.column_scale == FIXED] = 0
    ratio = np.exp([-0.4, -0.1, 0.1, 0.4])[design.class_scanner[design.scan_class]]
    once = design.class_single_scan[design.scan_class]
    sd = np.sqrt(scale[0] ** 2 * ratio[:, None] + once[:, None] * scale[design.single_scan_scale] ** 2)
    y = design.matrix @ u + sd * rng.normal(size=sd.shape)
    measurement = next(group for group in design.effects if group.name == "measurement")
    features = pd.DataFrame(0.7 + UNIT * y, columns=["V1-V2", "V1-MT"])
    return design, features, UNIT * scale, UNIT * measurement.contrasts @ u


@pytest.fixture(scope="module")
def posterior(simulated):
    return explicit.sample_explicit(*simulated[:2], seed=3, n_warmup=250, n_draws=250)


def everything(posterior) -> dict[str, np.ndarray]:
    """Each reported quantity as (chain, draw, …); scales as their logarithms."""
    return {"scales": np.log(posterior.scales.to_numpy())} | {
        name: array.to_numpy() for name, array in {**posterior.hyper, **posterior.effects}.items()
    }


def test_sampling_recovers_what_was_simulated(simulated, posterior):
    _, _, scales, measurement = simulated
    draws = everything(posterior)
    for name, truth in {
        "scales": np.log(scales),
        "measurement": measurement,
        "log_ratio": np.array([-0.4, -0.1, 0.1, 0.4]),
    }.items():
        z = (draws[name].mean((0, 1)) - truth) / draws[name].std((0, 1))
        assert np.abs(z).max() < 3.5, (name, z)
    # Told more than the prior: the noise to within a tenth or so.
    assert draws["scales"][:, :, 0].std((0, 1)).max() < 0.15


def test_chains_agree(posterior):
    for name, draws in everything(posterior).items():
        assert split_gelman_rubin(draws).max() < 1.05, name
    assert posterior.sampler.diverging.mean() < 0.02


def test_posterior_is_labelled(simulated, posterior):
    design, features = simulated[:2]
    assert posterior.scales.dims == ("chain", "draw", "family", "feature")
    assert list(posterior.scales.family.values) == list(design.scale_labels)
    assert list(posterior.scales.feature.values) == list(features.columns)
    assert posterior.hyper.log_ratio.dims == ("chain", "draw", "scanner")
    for group in design.effects:
        effect = posterior.effects[group.name]
        assert effect.dims == ("chain", "draw", group.dim, "feature")
        assert list(effect[group.dim].values) == list(group.levels)
    np.testing.assert_allclose(posterior.effects["measurement"].sum("scanner"), 0, atol=1e-12)


def test_double_precision_inside_leaves_the_caller_in_single(posterior):
    assert posterior.scales.dtype == np.float64
    assert jnp.ones(1).dtype == jnp.float32


def test_pymc_samples_the_same_posterior(simulated, posterior, pymc):
    """Another parametrization and another sampler: means within their Monte-Carlo error."""
    tree = pymc.sample_pymc(*simulated[:2], seed=4, draws=500, tune=500, chains=2).posterior
    other = {"scales": np.log(tree["scale"].to_numpy())}
    other |= {name: tree[name].to_numpy() for name in posterior.hyper}
    other |= {name: tree[f"effect_{name}"].to_numpy() for name in posterior.effects}
    for name, draws in everything(posterior).items():
        error = sum(d.var((0, 1)) / effective_sample_size(d) for d in (draws, other[name]))
        z = (draws.mean((0, 1)) - other[name].mean((0, 1))) / np.sqrt(error)
        assert np.abs(z).max() < 4.5, (name, z)
        np.testing.assert_allclose(draws.std((0, 1)), other[name].std((0, 1)), rtol=0.35, err_msg=name)
    assert jnp.ones(1).dtype == jnp.float32


def test_features_that_do_not_fit_are_refused(simulated, pymc):
    design, features = simulated[:2]
    with pytest.raises(InputError, match="do not match the scans"):
        explicit.log_joint(design, features.iloc[:-1], {})
    for spoiled in (features.assign(constant=1.0), features.assign(missing=np.nan)):
        with pytest.raises(InputError, match="features that vary"):
            explicit.log_joint(design, spoiled, {})
        with pytest.raises(InputError, match="features that vary"):
            pymc.build_pymc(design, spoiled)


def test_missing_values_have_no_density(simulated, pymc):
    """Both models as for the observed scans alone, of one feature at a time."""
    design, features = simulated[:2]
    holed = features.to_numpy().copy()
    holed[np.random.default_rng(0).random(holed.shape) < 0.3] = np.nan
    rng, n = np.random.default_rng(1), holed.shape[1]
    point = {"eta": rng.normal(size=6), "omega_excess": rng.random(6), "feature_offset": rng.normal(size=n),
             "log_scale": rng.normal(-1, 0.2, (6, n)), "u": rng.normal(0, 0.3, (len(design.columns), n)),
             "raw": rng.normal(0, 0.1, 4), "raw_bias": rng.normal(0, 0.1, 4)}  # fmt: skip
    filled = explicit.log_joint(design, holed, point), pymc.log_joint(design, holed, point)
    np.testing.assert_allclose(*filled, rtol=1e-10)
    y = (holed - np.nanmean(holed, 0)) / np.nanstd(holed, 0)
    variance = (
        np.exp(2 * point["log_scale"][0])
        * np.exp(point["raw"] - point["raw"].mean())[design.class_scanner[design.scan_class], None]
    )
    once = design.class_single_scan[design.scan_class, None]
    variance = variance + once * np.exp(2 * point["log_scale"][design.single_scan_scale])
    density = norm(design.matrix @ point["u"], np.sqrt(variance)).logpdf(y)
    complete = np.where(np.isnan(holed), np.nanmean(holed, 0), holed)
    z = (complete - complete.mean(0)) / complete.std(0)
    whole, of_all = (
        explicit.log_joint(design, complete, point),
        norm(design.matrix @ point["u"], np.sqrt(variance)).logpdf(z),
    )
    assert filled[0] - np.nansum(density) == pytest.approx(whole - of_all.sum(), rel=1e-10)


def test_without_pymc_the_error_says_how_to_install_it(simulated, monkeypatch):
    monkeypatch.setattr(pymc_model, "find_spec", lambda name: None)
    with pytest.raises(BayesharmError, match=r"(?s)Not installed: pymc.*pip install 'bayesharm\[pymc\]'"):
        pymc_model.build_pymc(*simulated[:2])
