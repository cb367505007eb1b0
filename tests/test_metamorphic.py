"""What must happen to the results if a study is changed in a way whose effect is known exactly.

Given the scales and variance ratios everything is Gaussian, so that most of these relations are equations, without a fit.
Each test states its relation and the reason; nothing but rounding may differ.
"""

from typing import NamedTuple

import jax
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from posteriors import make_learned
from scipy import stats
from studies import random_study

import bayesharm
from bayesharm.conditional.posterior import ConditionalPosterior
from bayesharm.data.dataset import load_dataset
from bayesharm.harmonization.adaptation import adapt
from bayesharm.inference.hyper_target import log_density, log_marginals, plain_target
from bayesharm.inference.importance import quadratic_features
from bayesharm.likelihood.definition import condition, log_likelihood
from bayesharm.likelihood.hierarchy import Hierarchy
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.catalog import load_model
from bayesharm.model.contrasts import add_columns
from bayesharm.model.design import Design, build_design
from bayesharm.model.labels import Column
from bayesharm.model.spec import Priors

SEEDS = st.integers(0, 2**31)
few_examples = settings(max_examples=8)


class Effects(NamedTuple):
    """Posterior of all effects of one feature given the scales, by column of the design, and the log likelihood."""

    mean: dict[Column, float]
    covariance: pd.DataFrame
    log_likelihood: float


class Given(NamedTuple):
    """A point at which effects are compared: log-scales by label, log lambda and log kappa by scanner."""

    log_scales: dict[str, float]
    log_noise: dict[str, float]
    log_bias: dict[str, float]

    def ratios(self, design: Design) -> VarianceRatios:
        return VarianceRatios.of_variances(*(np.array([part[k] for k in design.scanners]) for part in self[1:]))

    def scales(self, design: Design) -> np.ndarray:
        return np.array([self.log_scales[name] for name in design.scale_labels])

    def effects(self, scans: pd.DataFrame, y: np.ndarray, weight: np.ndarray | None = None) -> Effects:
        """`weight` is 0 for scans that lack the feature; without it there is a log likelihood too."""
        design = design_of(scans)
        arguments = design, y, self.scales(design), self.ratios(design)
        mean, covariance = condition(*arguments, 1.0 if weight is None else weight)
        index = pd.MultiIndex.from_tuples(design.columns)
        value = log_likelihood(*arguments) if weight is None else np.nan
        return Effects(dict(zip(design.columns, mean, strict=True)), pd.DataFrame(covariance, index, index), value)


def design_of(scans: pd.DataFrame) -> Design:
    return build_design(scans.reset_index(drop=True), load_model("traveling_and_cohort"))


def random_point(scans: pd.DataFrame, rng: np.random.Generator, *more: str) -> Given:
    """`more` are scanners that the study has not."""
    design = design_of(scans)
    log_scales = np.log(design.scale_medians) + rng.normal(0, 0.5, len(design.scales))
    names = [*design.scanners, *more]
    noise, bias = rng.normal(0, 0.5, (2, len(names)))
    return Given(*(dict(zip(*pair, strict=True)) for pair in (
        (design.scale_labels, log_scales), (names, noise), (names, bias),
    )))  # fmt: skip


def assert_same(found: Effects, expected: Effects, name: dict[Column, Column] | None = None) -> None:
    """The columns of `expected`, under their new names, have the same means and covariances."""
    columns = list(expected.mean)
    new = [column if name is None else name[column] for column in columns]
    np.testing.assert_allclose([found.mean[c] for c in new], [expected.mean[c] for c in columns], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(
        found.covariance.loc[new, new], expected.covariance.loc[columns, columns], rtol=1e-6, atol=1e-9
    )


@few_examples
@given(SEEDS)
def test_the_order_of_scans_does_not_matter(seed):
    """XᵀWX and XᵀWy are sums over scans."""
    rng = np.random.default_rng(seed)
    scans = random_study(seed % 40)
    y, order = rng.normal(size=len(scans)), rng.permutation(len(scans))
    point = random_point(scans, rng)
    found, expected = point.effects(scans.iloc[order], y[order]), point.effects(scans, y)
    assert_same(found, expected)
    assert found.log_likelihood == pytest.approx(expected.log_likelihood, abs=1e-8)


@few_examples
@given(SEEDS)
def test_names_are_only_names(seed):
    """Other names of people, scanners, sites and diagnoses permute the columns of X, and so the effects."""
    rng, scans = np.random.default_rng(seed), random_study(4 * (seed % 10))  # with a diagnosis
    y, point, new = rng.normal(size=len(scans)), random_point(scans, rng), {}
    for column in ("participant_id", "scanner", "diagnosis"):
        old = [name for name in scans[column].unique() if name != "HC"]
        new[column] = {"HC": "HC"} | {name: f"x{k}" for name, k in zip(old, rng.permutation(len(old)), strict=True)}
    new["site"] = new["scanner"]  # sites have the names of scanners
    renamed = scans.replace(new)
    scales = {name: "sampling_" + new["diagnosis"][name[9:]] if name[:9] == "sampling_" else name for name in point[0]}
    there = Given({scales[name]: value for name, value in point[0].items()},
                  *({new["scanner"][name]: value for name, value in part.items()} for part in point[1:]))  # fmt: skip
    kinds = {"participant": "participant_id", "measurement": "scanner", "sampling": "site", "disorder": "diagnosis"}
    found, expected = there.effects(renamed, y), point.effects(scans, y)
    columns = {
        each: Column(each.family, new[kinds[each.family]][each.level], new["diagnosis"].get(each.group, each.group))
        if each.family in kinds
        else each
        for each in expected.mean
    }
    assert_same(found, expected, columns)
    assert found.log_likelihood == pytest.approx(expected.log_likelihood, abs=1e-8)


def travelers_and_others(rng: np.random.Generator) -> pd.DataFrame:
    """Five travelers on A, B and C, some of them not on A or B; twelve people scanned once on A or B."""
    visits = [(f"t{i}", name) for i in range(5) for name in ("A", "B", "C") if name == "C" or rng.random() < 0.7 or i < 2]
    visits = [each for each in visits if sum(each[0] == other[0] for other in visits) > 1]
    visits += [(f"p{i:02d}", "AB"[i % 2]) for i in range(12)]
    scans = pd.DataFrame(visits, columns=["participant_id", "scanner"])
    scans["site"], scans["diagnosis"] = scans["scanner"], np.where(scans.index % 3 == 0, "MDD", "HC")
    scans["diagnosis"] = scans.groupby("participant_id")["diagnosis"].transform("first")
    return scans.assign(scan_id=[f"scan{k}" for k in range(len(scans))])


@few_examples
@given(SEEDS)
def test_two_identical_scanners_are_one_with_half_the_noise_and_half_the_bias_variance(seed):
    """Half the sum and half the difference of two biases are independent, of variance tau² kappa / 2 each.

    If every scan on C is split into two of the same value, on C1 and C2, their mean depends on half the sum only, with
    noise of variance sigma² lambda / 2: that is a scanner with kappa / 2 and lambda / 2. Their differences, all 0, depend on
    half the difference of the biases only, and have covariance 2 tau² kappa 11ᵀ + 2 sigma² lambda I. The map of the two
    values to their mean and difference has determinant 1.
    """
    rng = np.random.default_rng(seed)
    merged = travelers_and_others(rng)
    is_c = merged.scanner == "C"
    copies = [merged[is_c].assign(scanner=name, site=name, scan_id=merged.scan_id[is_c] + name) for name in ("C1", "C2")]
    split = pd.concat([merged[~is_c], *copies], ignore_index=True)
    y = rng.normal(size=len(merged))
    y_split = np.concatenate([y[~is_c], y[is_c], y[is_c]])
    one = random_point(merged, rng)
    two = Given(one.log_scales, *({**part, "C1": part["C"] + np.log(2), "C2": part["C"] + np.log(2)} for part in one[1:]))
    found, expected = two.effects(split, y_split), one.effects(merged, y)

    c, c1, c2 = (Column("measurement", name) for name in ("C", "C1", "C2"))
    others = [column for column in expected.mean if column != c]
    np.testing.assert_allclose([found.mean[k] for k in others], [expected.mean[k] for k in others], atol=1e-9)
    assert found.mean[c1] == pytest.approx(expected.mean[c], abs=1e-9) and found.mean[c2] == pytest.approx(found.mean[c1])
    parts = [[c1, c2] if column == c else [column] for column in expected.mean]
    mean_of_both = np.array([[(column in part) / len(part) for column in found.mean] for part in parts])
    together = mean_of_both @ found.covariance.to_numpy() @ mean_of_both.T
    np.testing.assert_allclose(together, expected.covariance, rtol=1e-7, atol=1e-9)

    n, bias, noise = is_c.sum(), np.exp(2 * one[0]["measurement"] + two[2]["C1"]), np.exp(2 * one[0]["noise"] + two[1]["C1"])
    of_difference = stats.multivariate_normal(np.zeros(n), 2 * bias * np.ones((n, n)) + 2 * noise * np.eye(n))
    assert found.log_likelihood == pytest.approx(expected.log_likelihood + of_difference.logpdf(np.zeros(n)), abs=1e-8)


@few_examples
@given(SEEDS)
def test_a_scanner_without_values_of_a_feature_is_irrelevant(seed):
    """Scans of weight 0 add nothing to XᵀWX and XᵀWy: other effects stay, and those of the scanner keep their priors."""
    rng = np.random.default_rng(seed)
    scans = travelers_and_others(rng)
    visits = [("t0", "D"), ("t1", "D"), ("new0", "D"), ("new1", "D"), ("new1", "D")]
    more = pd.DataFrame(visits, columns=["participant_id", "scanner"]).assign(site="D", diagnosis="HC")
    both = pd.concat([scans, more.assign(scan_id=[f"more{k}" for k in range(len(more))])], ignore_index=True)
    first = both.participant_id.map(scans.groupby("participant_id").diagnosis.first())
    both["diagnosis"] = first.fillna(both["diagnosis"])
    y, has_value = rng.normal(size=len(both)), np.arange(len(both)) < len(scans)
    point = random_point(both, rng)
    found, expected = point.effects(both, y, has_value * 1.0), point.effects(scans, y[has_value], np.ones(len(scans)))
    assert_same(found, expected)
    d = Column("measurement", "D")
    assert found.mean[d] == pytest.approx(0, abs=1e-12)
    prior = np.exp(2 * point.log_scales["measurement"] + point.log_bias["D"])
    assert found.covariance.loc[d, d].squeeze() == pytest.approx(prior)


@few_examples
@given(SEEDS)
def test_what_a_study_can_tell_is_not_changed_by_a_scanner_that_it_lacks(seed):
    """The same for the variances that are known before any feature is seen, which another function computes."""
    rng = np.random.default_rng(seed)
    scans = travelers_and_others(rng)
    more = pd.DataFrame({"participant_id": ["t0", "t1", "new"], "scanner": "D", "site": "D", "diagnosis": "HC"})
    both = pd.concat([scans, more.assign(scan_id=["d0", "d1", "d2"])], ignore_index=True)
    both["diagnosis"] = both.groupby("participant_id")["diagnosis"].transform("first")
    point, contrasts = random_point(both, rng), []
    for table in (scans, both):
        design = design_of(table)
        rows = ~(table.scanner == "D").to_numpy()
        found = ConditionalPosterior.of_scans(design, point.scales(design), point.ratios(design), rows)
        columns = design.of_scanner[[design.scanners.index(name) for name in "ABC"]]
        difference = np.array([[1.0, -1, 0], [0, 1, -1]]) @ add_columns(columns, len(design.columns)).toarray()
        contrasts.append(difference @ _covariance(found, design) @ difference.T)
    np.testing.assert_allclose(contrasts[0], contrasts[1], rtol=1e-8)


def _covariance(posterior: ConditionalPosterior, design: Design) -> np.ndarray:
    return posterior.covariance(add_columns(np.arange(len(design.columns))[:, None], len(design.columns)))


@settings(max_examples=3)
@given(SEEDS, st.integers(0, 4))
def test_a_feature_counted_twice_adds_its_own_marginal_likelihood(seed, which):
    """Features are independent given the hyperparameters, so that their log marginal likelihoods add up."""
    rng, n_scales = np.random.default_rng(seed), 3
    log_scales, log_weights = rng.normal(-1, 0.6, (20, n_scales, 5)), rng.normal(size=(20, 5))
    hierarchy, medians = Hierarchy(Priors(), n_scales, n_scales), np.full(n_scales, -1.0)
    position = np.concatenate([rng.normal(-1, 0.5, (n_scales, 7)), rng.uniform(0.1, 1, (n_scales, 7))])
    once, twice = (
        plain_target(medians, quadratic_features(log_scales[..., features]), log_weights[:, features])
        for features in ([*range(5)], [*range(5), which])
    )
    with jax.enable_x64(True):
        gain = log_density(hierarchy, twice, position) - log_density(hierarchy, once, position)
        own = log_marginals(hierarchy, once, position)[:, which]
    np.testing.assert_allclose(gain, own, rtol=1e-9, atol=1e-9)


class Study(NamedTuple):
    """Scans, which of them are new, values, and the scales of each feature in its own sds."""

    scans: pd.DataFrame
    is_new: np.ndarray
    values: np.ndarray
    scales: dict[str, np.ndarray]

    def results(self) -> tuple[dict[str, pd.DataFrame], np.ndarray, np.ndarray]:
        """Means and sds of effects after adaptation to the new scans, by level, and all scans harmonized, with sds."""
        old = load_dataset(self.scans[~self.is_new], self.values[~self.is_new], check="fit")
        unit = self.values[~self.is_new].std(0)
        ratio = {name: np.exp(0.1 * k) for k, name in enumerate(sorted(self.scans.scanner.unique(), key=_number))}
        fitted = make_learned(old, load_model("traveling_and_cohort"), {k: s * unit for k, s in self.scales.items()}, ratio)
        adapted = adapt(fitted, load_dataset(self.scans[self.is_new], self.values[self.is_new], check="apply"))
        effects = {}
        for name in ("measurement", "sampling", "disorder", "participant"):
            effect = adapted.effect(name)
            labels = effect[str(effect["n_scans"].dims[0])].values.astype(str)
            effects |= {f"{name} {part}": pd.DataFrame(effect[part].values, labels) for part in ("mean", "sd")}
        harmonized = bayesharm.harmonize(adapted, load_dataset(self.scans, self.values, check="apply"))
        return effects, harmonized.mean, harmonized.sd


def _number(scanner: str) -> int:
    return int(scanner[1:]) if scanner[1:].isdigit() else 9


@pytest.fixture(scope="module")
def study() -> Study:
    """New people, travelers among them, on the scanners of the fit: then no ratio has to be searched for."""
    scans, rng = random_study(8), np.random.default_rng(0)
    values = 5 + rng.normal(0, 2, (len(scans), 4))
    labels = design_of(scans).scale_labels
    scales = {name: np.exp(rng.normal(np.log(0.5), 0.3, 4)) for name in labels}
    return Study(scans, scans.participant_id.isin(["t1", "p1", "p2", "p5"]).to_numpy(), values, scales)


@pytest.fixture(scope="module")
def results(study):
    return study.results()


CHANGES = {
    "scans in another order": lambda s, r: s._replace(
        scans=s.scans.iloc[r[0]], is_new=s.is_new[r[0]], values=s.values[r[0]]
    ),
    "features in another order": lambda s, r: s._replace(
        values=s.values[:, r[1]], scales={k: v[r[1]] for k, v in s.scales.items()}
    ),
    "shifted": lambda s, r: s._replace(values=s.values + [100, -3, 0, 0]),
    "in other units": lambda s, r: s._replace(values=s.values * [1000, 0.01, 1, 1]),
    "negative": lambda s, r: s._replace(values=-s.values),
    "one feature twice": lambda s, r: s._replace(
        values=s.values[:, [0, 1, 2, 0]], scales={k: v[[0, 1, 2, 0]] for k, v in s.scales.items()}
    ),
}
EXPECTED = {  # of effects and harmonized values: which scans and features, factors of the means, and shifts of the values
    "scans in another order": lambda r: (r[0], np.arange(4), 1, 0),
    "features in another order": lambda r: (slice(None), r[1], 1, 0),
    "shifted": lambda r: (slice(None), np.arange(4), 1, np.array([100, -3, 0, 0])),
    "in other units": lambda r: (slice(None), np.arange(4), np.array([1000, 0.01, 1, 1]), 0),
    "negative": lambda r: (slice(None), np.arange(4), -1, 0),
    "one feature twice": lambda r: (slice(None), np.array([0, 1, 2, 0]), 1, 0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_effects_and_harmonized_values_follow_their_data(study, results, change):
    """From tables to harmonized values, at given scales: adaptation computes all effects without sampling.

    Scans enter by sums; features are independent given the scales; a shift goes into the center of a feature and a factor
    into its unit, so that standardized features are the same, or all of opposite sign.
    """
    rng = np.random.default_rng(1)
    orders = rng.permutation(len(study.scans)), rng.permutation(4)
    rows, columns, factor, shift = EXPECTED[change](orders)
    found, expected = CHANGES[change](study, orders).results(), results
    for name, table in expected[0].items():
        new = table.to_numpy()[:, columns] * (factor if name.endswith("mean") else np.abs(factor))
        scale = np.abs(new).max(0)
        np.testing.assert_allclose(found[0][name].loc[table.index] / scale, new / scale, atol=1e-8, err_msg=name)
    np.testing.assert_allclose(found[1], factor * expected[1][rows][:, columns] + shift, rtol=1e-8, atol=1e-7)
    np.testing.assert_allclose(found[2], np.abs(factor) * expected[2][rows][:, columns], rtol=1e-7)


def test_a_fit_in_other_units_is_the_same_fit(small_study, small_run):
    """Of features times -1024, a power of two: standardized they differ by their sign alone, to the last bit.

    No density depends on the sign, so that all draws of scales and hyperparameters are the same numbers.
    """
    before = bayesharm.load_posterior(small_run)
    values = np.load(small_study / "features.npy")
    dataset = load_dataset(small_study / "scans.csv", np.float32(-1024) * values)
    after = bayesharm.fit(dataset, "traveling_and_cohort", seed=1, keep_draws="thin")
    for name in ("eta", "omega", "noise_ratio", "bias_ratio"):
        np.testing.assert_array_equal(after.hyper[name], before.hyper[name], err_msg=name)
    for name in ("mean", "sd", "q05", "q50", "q95", "feature_scale"):
        np.testing.assert_array_equal(after.scales[name], 1024 * before.scales[name], err_msg=name)
    for family in before.effect_families:
        one, other = before.effect(family), after.effect(family)
        np.testing.assert_array_equal(other["mean"], -1024 * one["mean"], err_msg=family)
        np.testing.assert_array_equal(other["sd"], 1024 * one["sd"], err_msg=family)
