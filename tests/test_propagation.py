"""Propagation of harmonization uncertainty: pooling by Rubin's rules, and the estimators."""

import sys
import tracemalloc
import weakref

import numpy as np
import pandas as pd
import pytest
from scipy import linalg, stats
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_score

import bayesharm
from bayesharm import (
    FeatureEstimates,
    InputError,
    compare_propagation,
    contrast,
    correlation,
    estimator_score,
    group_difference,
    pool,
    propagate,
)

Z = stats.norm.isf(1e-5)  # a false alarm in 50,000, two-sided
SD, BIAS_SD = 1.0, 1.0  # of noise, and of the bias of a scanner, in the known-answer study


def rubin(q, u, known_df):
    """Rubin's rules for one quantity, as the textbook writes them."""
    m, ubar, b = len(q), np.mean(u), np.var(q, ddof=1)
    t = ubar + b + b / m
    r = (b + b / m) / ubar
    df = (m - 1) * (1 + 1 / r) ** 2
    missing = (r + 2 / (df + 3)) / (r + 1)
    if np.isfinite(known_df):
        observed = (known_df + 1) / (known_df + 3) * known_df * (1 - (b + b / m) / t)
        df = df * observed / (df + observed)
        missing = 1 - ((df + 1) / ((df + 3) * t)) / ((known_df + 1) / ((known_df + 3) * ubar))
    lower, upper = stats.t.interval(0.9, df, np.mean(q), np.sqrt(t))
    p = 2 * stats.t.sf(abs(np.mean(q)) / np.sqrt(t), df)
    return [np.mean(q), np.sqrt(t), lower, upper, p, df, ubar, b, missing]


@pytest.mark.parametrize("df", [None, 7.0, 400.0, [3.0, 12.0, np.inf, 1e6]])
def test_pooling_is_by_rubins_rules(df):
    rng = np.random.default_rng(1)
    q, u = rng.normal(1, [0.1, 1, 3, 0.01], (6, 4)), rng.gamma(5, size=(6, 4))
    table = pool(pd.DataFrame(q, columns=list("abcd")), u, df=df)
    assert table.columns.tolist() == ["estimate", "se", "lower", "upper", "p", "df", "within", "between", "lost"]
    assert table.index.tolist() == list("abcd")
    known = np.broadcast_to(np.inf if df is None else df, 4)
    expected = [rubin(q[:, k], u[:, k], known[k]) for k in range(4)]
    np.testing.assert_allclose(table.to_numpy(), expected, rtol=1e-9)
    assert table.lost.between(0, 1).all() and table.lost["c"] > 0.5 > 0.05 > table.lost["d"]


def test_the_level_is_that_of_the_interval():
    q, u = np.array([1.0, 2.0, 4.0]), np.full(3, 0.5)
    narrow, wide = (pool(q, u, df=20, level=level).iloc[0] for level in (0.5, 0.99))
    assert narrow.estimate == wide.estimate and narrow.p == wide.p
    half = stats.t.isf(0.005, wide.df) * wide.se
    assert (wide.lower, wide.upper) == pytest.approx((wide.estimate - half, wide.estimate + half))
    assert wide.upper - wide.lower > narrow.upper - narrow.lower


def test_draws_that_do_not_differ_lose_nothing():
    table = pool(np.full((5, 1), 0.1), np.full((5, 1), 0.04), df=11)
    expected = stats.t.interval(0.9, 11, 0.1, 0.2)
    np.testing.assert_allclose(table.loc[0, ["se", "lower", "upper", "df"]].to_numpy(float), [0.2, *expected, 11])
    assert table.between[0] == 0 and table.lost[0] == 0


def test_without_variances_there_is_only_the_spread_between_draws():
    q = np.array([0.6, 0.7, 0.65, 0.75])
    table = pool(q, None, df=50)
    row = table.iloc[0]
    se = np.sqrt(1.25 * q.var(ddof=1))
    np.testing.assert_allclose([row.lower, row.upper], stats.t.interval(0.9, 3, q.mean(), se))
    np.testing.assert_allclose(row[["se", "between", "df"]].to_numpy(), [se, q.var(ddof=1), 3])
    assert np.isnan([row.within, row.lost, row.p]).all()


def test_what_is_missing_in_a_draw_is_missing():
    q, u = np.ones((3, 3)), np.ones((3, 3))
    q[1, 0] = u[2, 1] = np.nan
    table = pool(q, u)
    assert table.loc[:1, ["se", "lower", "upper", "p", "lost"]].isna().all(axis=None)
    assert table.loc[2].notna().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(estimates=[[1.0, 2.0]], variances=[[1.0, 1.0]]), "1 draw\n[\\s\\S]*harmonize with draws=20"),
        (dict(estimates=[1.0, 2.0], variances=[1.0]), "variances do not match"),
        (dict(estimates=[1.0, 2.0], variances=[1.0, -1.0]), "1 of them negative"),
        (dict(estimates=[1.0, 2.0], variances=None, level=90), "level=90"),
        (dict(estimates=[1.0, 2.0], variances=None, scale="z"), "scale='z'"),
        (dict(estimates=[1.0, 2.0], variances=None, labels=["a", "b"]), "2 labels[\\s\\S]*1, one for each"),
    ],
)
def test_what_cannot_be_pooled_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        pool(**arguments)


def test_a_function_may_return_its_results_in_any_form():
    draws = np.random.default_rng(2).normal(size=(4, 10, 3))
    forms = [
        lambda x: (x.mean(0), x.var(0) / 10, 9),
        lambda x: (pd.Series(x.mean(0), list("abc")), x.var(0) / 10, np.full(3, 9.0)),
        lambda x: FeatureEstimates(x.mean(0), x.var(0) / 10, 9),
        lambda x: pd.DataFrame({"estimate": x.mean(0), "variance": x.var(0) / 10, "df": 9}, index=list("abc")),
    ]
    expected = pool(draws.mean(1), draws.var(1) / 10, df=9)
    for form in forms:
        table = propagate(form, draws)
        assert table.index.tolist() in ([0, 1, 2], ["a", "b", "c"])
        np.testing.assert_allclose(table.to_numpy(), expected.to_numpy(), rtol=1e-12)
        assert propagate(form, draws, labels=np.array(["x", "y", "z"])).index.tolist() == ["x", "y", "z"]
    np.testing.assert_allclose(propagate(lambda x: (x.mean(0), x.var(0) / 10), draws, df=9), expected, rtol=1e-12)
    number = propagate(lambda x: (x.mean(), 0.1), draws)
    assert len(number) == 1 and number.within[0] == pytest.approx(0.1)
    assert propagate(lambda x: x.mean(), draws).within.isna().all()


def test_results_that_make_no_sense_are_refused():
    draws = np.zeros((3, 5, 2))
    sizes = iter([1, 2, 2])
    refused = [
        (lambda x: (1, 2, 3, 4, 5), draws, "invalid result[\\s\\S]*tuple"),
        (lambda x: np.zeros((2, 2)), draws, r"estimates of shape \(2, 2\)"),
        (lambda x: (np.zeros(2), np.zeros(3)), draws, "invalid result"),
        (lambda x: pd.DataFrame({"mean": [1.0]}), draws, "estimate"),
        (lambda x: np.zeros(next(sizes)), draws, r"\(1,\), \(\), \(\)\) or \(\(2,\)"),
        (lambda x: 0.0, None, "no draws[\\s\\S]*draws=20"),
        (lambda x: 0.0, iter([]), "0 draws"),
        (lambda x: 0.0, draws[:1], "1 draw\n"),
        (lambda x: 0.0, draws[0], r"shape \(2,\)[\s\S]*Harmonized.draws"),
    ]
    for function, given, message in refused:
        with pytest.raises(InputError, match=message):
            propagate(function, given)


def test_draws_are_taken_one_at_a_time_and_never_changed():
    alive = []

    def make():
        for k in range(4):
            assert not any(reference() is not None for reference in alive)
            values = np.full((3, 2), float(k))
            alive.append(weakref.ref(values))
            yield values
            del values

    table = propagate(lambda x: x[0], make())  # a view, which would keep the draw
    assert table.estimate.tolist() == [1.5, 1.5] and len(alive) == 4
    with pytest.raises(ValueError, match="read-only"):
        propagate(lambda x: x.sort(), np.zeros((2, 3, 2)))


def test_a_file_of_draws_is_not_read_whole(tmp_path):
    shape = (30, 2000, 500)
    file = np.lib.format.open_memmap(tmp_path / "draws.npy", mode="w+", dtype="float32", shape=shape)
    rng = np.random.default_rng(3)
    for k in range(shape[0]):
        file[k] = rng.normal(size=shape[1:])
    del file
    draws = np.load(tmp_path / "draws.npy", mmap_mode="r")
    analysis = group_difference(np.repeat(["HC", "MDD"], 1000), "HC", "MDD")
    expected = pool(*(np.stack(part) for part in zip(*(analysis(values)[:2] for values in draws), strict=True)))
    tracemalloc.start()
    table = propagate(analysis, draws, df=np.inf)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * draws[0].nbytes  # of 30
    np.testing.assert_allclose(table.estimate, expected.estimate)


# Analyses against other implementations


def unequal_study(rng, n=60, features=4):
    """Two groups, of which the second is noisier; age; some people scanned repeatedly."""
    group = np.where(np.arange(n) % 3 == 0, "MDD", "HC")
    age = pd.DataFrame({"age": rng.normal(45, 12, n), "sex": rng.choice(["f", "m"], n)})
    people = np.r_[np.repeat(np.arange(5), 5), np.arange(5, n - 20)]
    values = (
        1 + rng.normal(size=(n, features)) * np.where(group == "MDD", 2, 1)[:, None] + rng.normal(size=n)[people][:, None]
    )
    return group, age, people, values


def test_of_two_groups_it_is_the_t_test():
    group, _, _, values = unequal_study(np.random.default_rng(4))
    draws = [values, values]
    patients, controls = values[group == "MDD"], values[group == "HC"]
    plain = propagate(group_difference(group, "HC", "MDD", robust=False), draws, level=0.95)
    expected = stats.ttest_ind(patients, controls)
    interval = expected.confidence_interval(0.95)
    np.testing.assert_allclose(plain.p, expected.pvalue, rtol=1e-9)
    np.testing.assert_allclose(plain.estimate, patients.mean(0) - controls.mean(0), rtol=1e-9)
    np.testing.assert_allclose(plain[["lower", "upper"]].T, [interval.low, interval.high], rtol=1e-9)
    welch = stats.ttest_ind(patients, controls, equal_var=False)
    robust = propagate(group_difference(group, "HC", "MDD"), draws)
    np.testing.assert_allclose(robust.estimate / robust.se, welch.statistic, rtol=1e-9)


def dense_cr2(x, c, cluster, values):
    """CR2 and its degrees of freedom by their definition, with matrices (scan, scan)."""
    solve = np.linalg.inv(x.T @ x) @ x.T
    maker, weights = np.eye(len(x)) - x @ solve, c @ solve
    residual, variance, parts = maker @ values, 0.0, []
    for name in np.unique(cluster):
        rows = cluster == name
        adjust = linalg.inv(np.real(linalg.sqrtm(maker[np.ix_(rows, rows)])))
        variance = variance + (weights[rows] @ adjust @ residual[rows]) ** 2
        parts.append(maker[:, rows] @ adjust @ weights[rows])
    outer = np.stack(parts) @ np.stack(parts).T
    return weights @ values, variance, np.trace(outer) ** 2 / (outer**2).sum()


def test_robust_variances_are_cr2_with_their_degrees_of_freedom():
    group, covariates, people, values = unequal_study(np.random.default_rng(5))
    x = np.column_stack([group == "MDD", np.ones(60), covariates.age, covariates.sex == "m"]).astype(float)
    for given, cluster in ((None, np.arange(60)), (people.astype(str), people)):
        found = group_difference(group, "HC", "MDD", covariates, participants=given)(values)
        estimate, variance, df = dense_cr2(x, np.eye(4)[0], cluster, values)
        np.testing.assert_allclose(found.estimate, estimate, rtol=1e-8)
        np.testing.assert_allclose(found.variance, variance, rtol=1e-8)
        np.testing.assert_allclose(found.df, df, rtol=1e-8)


def test_scans_of_one_person_are_not_counted_as_several_people():
    """Of people scanned equally often it is Welch's test of their means."""
    rng = np.random.default_rng(6)
    people = np.repeat(np.arange(20), 4)
    values = rng.normal(size=(20, 3))[people] + 0.1 * rng.normal(size=(80, 3))
    group = np.where(people < 12, "HC", "MDD")
    found = group_difference(group, "HC", "MDD", participants=people)(values)
    means = values.reshape(20, 4, 3).mean(1)
    welch = stats.ttest_ind(means[12:], means[:12], equal_var=False)
    np.testing.assert_allclose(found.estimate / np.sqrt(found.variance), welch.statistic, rtol=1e-9)
    assert (group_difference(group, "HC", "MDD")(values).variance < found.variance / 2).all()


def test_contrasts_of_coefficients():
    rng = np.random.default_rng(7)
    group = rng.choice(["HC", "MDD", "SCZ"], 90)
    design = pd.DataFrame({"constant": 1.0, "MDD": group == "MDD", "SCZ": group == "SCZ"})
    values = rng.normal(size=(90, 5))
    found = contrast(design, {"MDD": 1, "SCZ": -1})(values)
    pair = group_difference(group, "SCZ", "MDD")(values)  # without covariates the third group does not matter
    np.testing.assert_allclose(found.estimate, pair.estimate, rtol=1e-9)
    np.testing.assert_allclose(found.variance, pair.variance, rtol=1e-9)
    one = contrast(design, "MDD", robust=False)(values)
    np.testing.assert_allclose(one.df, 87, rtol=1e-9)


def test_the_unit_of_a_covariate_does_not_matter():
    group, covariates, people, values = unequal_study(np.random.default_rng(8))
    one = group_difference(group, "HC", "MDD", covariates, participants=people)(values)
    covariates["age"] = covariates.age * 1e9 + 1e10
    covariates["same"] = covariates.age  # adds nothing
    other = group_difference(group, "HC", "MDD", covariates, participants=people)(values)
    for a, b in zip(one[:3], other[:3], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_correlations_have_the_interval_of_fisher_z():
    rng = np.random.default_rng(9)
    age, values = rng.normal(40, 10, 50), rng.normal(size=(50, 3))
    values[:, 1] += age / 5
    table = propagate(correlation(age), [values, values], level=0.95)
    for k in range(3):
        expected = stats.pearsonr(age, values[:, k])
        interval = expected.confidence_interval(0.95)
        found = table.loc[k, ["estimate", "lower", "upper"]].to_numpy(float)
        np.testing.assert_allclose(found, [expected.statistic, *interval], rtol=1e-9)
    np.testing.assert_allclose(table.se, (1 - table.estimate**2) / np.sqrt(47), rtol=1e-9)
    z = [
        np.arctanh([np.corrcoef(age, y)[0, 1] for y in draw.T]) for draw in (values, values + rng.normal(size=values.shape))
    ]
    two = propagate(correlation(age), [values, np.array(values)])
    assert (two.between == 0).all()
    pooled = pool(z, np.full((2, 3), 1 / 47), scale="fisher_z")
    np.testing.assert_allclose(pooled.estimate, np.tanh(np.mean(z, axis=0)))
    assert ((pooled.lower > -1) & (pooled.upper < 1)).all()
    np.testing.assert_allclose(np.sqrt(pooled.within + 1.5 * pooled.between), pooled.se)


def test_partial_correlations():
    rng = np.random.default_rng(10)
    _, covariates, _, values = unequal_study(rng)
    x = covariates.age.to_numpy() + rng.normal(0, 12, 60)
    design = np.column_stack([np.ones(60), covariates.age, covariates.sex == "m"]).astype(float)
    left = [y - design @ np.linalg.lstsq(design, y, rcond=None)[0] for y in (x, values)]
    found = correlation(x, covariates)(values)
    np.testing.assert_allclose(np.tanh(found.estimate), [np.corrcoef(left[0], y)[0, 1] for y in left[1].T], rtol=1e-9)
    np.testing.assert_allclose(found.variance, 1 / (60 - 3 - 2))


@pytest.mark.parametrize("few", [False, True])
@pytest.mark.parametrize("what", ["difference", "correlation"])
def test_a_feature_uses_the_scans_that_have_it(what, few):
    group, covariates, people, values = unequal_study(np.random.default_rng(11), features=6)
    x = np.random.default_rng(12).normal(size=60)
    values[::7, 1:3] = values[:20, 3] = values[:, 4] = np.nan
    if few:  # one feature alone
        values = values[:, [3]]

    def prepare(rows):
        if what == "correlation":
            return correlation(x[rows], covariates[rows])
        return group_difference(group[rows], "HC", "MDD", covariates[rows], participants=people[rows])

    found = prepare(np.ones(60, bool))(values)
    for k in (0,) if few else (0, 1, 2, 3, 5):
        rows = ~np.isnan(values[:, k])
        alone = prepare(rows)(values[rows, k : k + 1])
        assert found.estimate[k] == pytest.approx(alone.estimate[0])
        assert found.variance[k] == pytest.approx(alone.variance[0])
    assert few or np.isnan([found.estimate[4], propagate(lambda y: found, [values, values]).se[4]]).all()


def test_scans_without_what_is_asked_about_are_left_out():
    group, covariates, people, values = unequal_study(np.random.default_rng(13))
    expected = group_difference(group, "HC", "MDD", covariates, participants=people)(values)
    more = [*group, "SCZ", None]
    table = pd.concat([covariates, pd.DataFrame({"age": [np.nan, 1.0], "sex": ["x", None]})])
    longer = np.vstack([values, np.full((2, 4), 99.0)])
    found = group_difference(more, "HC", "MDD", table, participants=np.r_[people, 0, 0])(longer)
    np.testing.assert_allclose(found.variance, expected.variance, rtol=1e-9)
    np.testing.assert_allclose(found.df, expected.df, rtol=1e-9)
    np.testing.assert_allclose(
        correlation(np.r_[covariates.age, np.nan, np.nan])(longer).estimate, correlation(covariates.age)(values).estimate
    )


def test_analyses_that_cannot_be_made_are_refused():
    group, covariates, people, values = unequal_study(np.random.default_rng(14))
    design = pd.DataFrame({"constant": 1.0, "a": group == "HC", "b": group == "MDD"})
    confounded, missing = covariates.assign(site=group), covariates.assign(age=np.nan)
    refused = [
        (lambda: group_difference(group, "HC", "ASD"), "no scan of 'ASD'[\\s\\S]*'MDD', 'HC'"),
        (lambda: group_difference(group, "HC", "MDD", confounded), "not estimable"),
        (lambda: group_difference(group, "HC", "MDD", missing), "missing for some scans[\\s\\S]*'age'"),
        (lambda: group_difference(group, "HC", "MDD", covariates[:9]), "9 rows[\\s\\S]*60 rows"),
        (lambda: group_difference(group, "HC", "MDD", participants=[None] * 60), "60 of them missing"),
        (lambda: group_difference(group[:2], "HC", "MDD"), "too few scans"),
        (lambda: contrast(design, "c"), "not in the design[\\s\\S]*'constant', 'a', 'b'"),
        (lambda: contrast(design, "a"), "3 columns of rank 2"),
        (lambda: contrast(design.assign(b="x"), "a"), "not finite numbers[\\s\\S]*'b'"),
        (lambda: contrast(design.assign(b=np.inf), "a"), "not finite numbers[\\s\\S]*'b'"),
        (lambda: correlation(np.ones(60)), "correlation cannot be computed"),
        (lambda: correlation(covariates.age, covariates), "correlation cannot be computed"),
        (lambda: correlation([1.0, 2.0, 3.0]), "3 scans"),
        (lambda: correlation(covariates.sex), "not finite numbers"),
        (lambda: contrast(design, ["a", "b"]), "contrast is not valid"),
        (lambda: contrast(design, {"a": 0}), "contrast is not valid"),
        (lambda: group_difference(np.arange(60) % 2, "0", "1"), "no scan of '0', '1'[\\s\\S]*groups 0, 1"),
        (lambda: group_difference(pd.Series(group), "HC", "MDD", covariates.iloc[::-1]), "in different orders"),
        (lambda: contrast(design, "a", participants=pd.Series(people).iloc[::-1]), "in different orders"),
        (lambda: propagate(lambda y: None, [values, values]), "NoneType: nothing was returned"),
        (lambda: correlation(covariates.age)(values[:9]), r"shape \(9, 4\)[\s\S]*60 scans"),
    ]
    for make, message in refused:
        with pytest.raises(InputError, match=message):
            make()
    contrast(design, {"a": 1, "b": -1})  # estimable all the same


def test_scores_of_estimators_split_every_draw_alike():
    rng = np.random.default_rng(15)
    people, y = np.repeat(np.arange(20), 3), np.repeat(np.arange(20) % 2, 3)
    draws = rng.normal(size=(3, 60, 4)) + y[:, None]
    score = estimator_score(LogisticRegression(), y, cv=StratifiedKFold(3, shuffle=True), scoring="roc_auc")
    table = propagate(score, [draws[0], draws[0]])
    assert table.between.tolist() == [0.0] and table.index.tolist() == ["roc_auc"]
    cv = StratifiedGroupKFold(4)
    table = propagate(estimator_score(LogisticRegression(), y, cv=cv, groups=people), draws)
    scores = [cross_val_score(LogisticRegression(), x, y, cv=cv, groups=people).mean() for x in draws]
    assert table.estimate["score"] == pytest.approx(np.mean(scores))
    assert table.between["score"] == pytest.approx(np.var(scores, ddof=1)) and np.isnan(table.within["score"])


def test_without_scikit_learn_it_is_said_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    with pytest.raises(InputError, match="pip install scikit-learn"):
        estimator_score(None, [0, 1])


# The known answer: two scanners, of which one has most of the patients


def make_study(rng, n_features, n=200):
    """Group, scanner, values of features whose scanner B is biased, and the mean and sd of the exact posterior of the bias.

    Group difference and mean have flat priors, the bias a normal one, and the noise is known.
    """
    scanner = (np.arange(n) % 2).astype(float)
    patient = np.where(scanner == 1, np.arange(n) < 0.85 * n, np.arange(n) < 0.15 * n)
    design = np.column_stack([np.ones(n), patient])
    bias = rng.normal(0, BIAS_SD, n_features)
    values = 0.5 * patient[:, None] + scanner[:, None] * bias + rng.normal(0, SD, (n, n_features))
    left = scanner - design @ np.linalg.lstsq(design, scanner, rcond=None)[0]
    variance = 1 / (1 / BIAS_SD**2 + left @ left / SD**2)
    return np.where(patient, "MDD", "HC"), scanner, values, variance * (left @ values) / SD**2, np.sqrt(variance)


def draw(rng, scanner, values, mean, sd, n_draws):
    for _ in range(n_draws):
        yield values - scanner[:, None] * (mean + sd * rng.normal(size=mean.shape))


def test_propagated_intervals_cover_and_plain_ones_do_not():
    rng, n_features = np.random.default_rng(16), 10_000
    group, scanner, values, mean, sd = make_study(rng, n_features)
    harmonized, draws = values - scanner[:, None] * mean, draw(rng, scanner, values, mean, sd, 30)
    table = compare_propagation(group_difference(group, "HC", "MDD", robust=False), harmonized, draws)
    error = np.sqrt(0.09 / n_features)
    roughness = 0.003  # Barnard & Rubin's degrees of freedom are too few where the noise is known beforehand
    covered = ((table.lower < 0.5) & (table.upper > 0.5)).mean()
    plain = ((table.lower_plain < 0.5) & (table.upper_plain > 0.5)).mean()
    assert abs(covered - 0.9) < Z * error + roughness
    exact = 2 * stats.norm.cdf(stats.norm.isf(0.05) * np.sqrt(1 - table.lost.mean())) - 1
    assert exact < 0.8 and abs(plain - exact) < Z * error + 0.01  # lost is known to a hundredth from 30 draws


def test_the_pooled_variance_is_that_of_the_exact_posterior():
    rng, n_draws = np.random.default_rng(17), 4000
    group, scanner, values, mean, sd = make_study(rng, 1)
    design = np.column_stack([np.ones(len(group)), group == "MDD"]).astype(float)
    known = SD**2 * np.linalg.inv(design.T @ design)[1, 1]  # of the difference, if the bias were known
    all_columns = np.column_stack([design, scanner])
    precision = all_columns.T @ all_columns / SD**2 + np.diag([0, 0, 1 / BIAS_SD**2])
    exact_mean = np.linalg.solve(precision, all_columns.T @ values[:, 0] / SD**2)[1]
    exact = np.linalg.inv(precision)[1, 1]
    difference = contrast(pd.DataFrame(design, columns=["constant", "MDD"]), "MDD")
    table = propagate(lambda x: (difference(x).estimate, known), draw(rng, scanner, values, mean, sd, n_draws))
    between = exact - known
    assert abs(table.estimate[0] - exact_mean) < Z * np.sqrt(between / n_draws)
    assert abs(table.between[0] - between) < Z * between * np.sqrt(2 / (n_draws - 1))
    assert table.se[0] ** 2 == pytest.approx(known + (1 + 1 / n_draws) * table.between[0])
    assert abs(table.lost[0] - between / exact) < Z * np.sqrt(2 / n_draws)


def test_with_and_without_propagation_side_by_side():
    rng = np.random.default_rng(18)
    group, scanner, values, mean, sd = make_study(rng, 3)
    harmonized, analysis = values - scanner[:, None] * mean, group_difference(group, "HC", "MDD")
    draws = list(draw(rng, scanner, values, mean, sd, 10))
    table = compare_propagation(analysis, harmonized, draws, labels=list("abc"), level=0.8)
    pd.testing.assert_frame_equal(table.iloc[:, :9], propagate(analysis, draws, labels=list("abc"), level=0.8))
    plain = propagate(analysis, [harmonized, harmonized], labels=list("abc"), level=0.8)
    columns = ["estimate", "se", "lower", "upper", "p"]
    np.testing.assert_allclose(table[[f"{name}_plain" for name in columns]], plain[columns], rtol=1e-12)
    assert (table.se > table.se_plain).all()
    score = compare_propagation(lambda x: x.mean(), harmonized, draws)
    assert score.se[0] > 0 and np.isnan(score.se_plain[0])


def test_public_names():
    for name in (
        "propagate",
        "pool",
        "compare_propagation",
        "contrast",
        "group_difference",
        "correlation",
        "estimator_score",
    ):
        assert name in bayesharm.__all__ and callable(getattr(bayesharm, name))
