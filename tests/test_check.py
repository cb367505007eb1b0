"""The check of a study before a fit: numbers against independent formulas, verdicts on small designs, page and JSON."""

import html
import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
import pytest
from studies import covariance, random_study, with_protocol
from typer.testing import CliRunner

import bayesharm
from bayesharm.cli.app import app
from bayesharm.conditional.identifiability import identify
from bayesharm.data.dataset import Dataset, load_dataset
from bayesharm.data.features import Features
from bayesharm.data.scans import read_scans
from bayesharm.datasets.longitudinal import simulate_longitudinal
from bayesharm.likelihood.definition import condition, log_likelihood, noise_variance, prior_variance
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.catalog import load_model
from bayesharm.model.design import Design, build_design
from bayesharm.model.spec import Family
from bayesharm.results.posterior import load_posterior
from bayesharm.study_check.check import check
from bayesharm.study_check.confounding import adjusted_share, canonical_share
from bayesharm.study_check.feature_values import check_features
from bayesharm.study_check.gains import expect_gains
from bayesharm.study_check.links import find_links
from bayesharm.study_check.outlying import find_outlying
from bayesharm.study_check.precision import INSEPARABLE, Precision, expect_precision
from bayesharm.study_check.typical_scales import estimate_scales

DOCS = Path(__file__).parents[1] / "docs" / "how-to" / "check.md"
MODELS = ["cohort", "traveling", "traveling_and_cohort", "protocol"]


def spec_of(model: str, scans: pd.DataFrame):
    return with_protocol(scans) if model == "protocol" else load_model(model)


def precision_of(design: Design, scales: np.ndarray | None = None) -> Precision:
    scales = design.scale_medians if scales is None else scales
    return expect_precision(design, identify(design, np.log(scales)), scales)


# Small designs ----------------------------------------------------------------------------------------------------------


def cohort(scanner: str, n: int = 30, diagnoses: str = "HC MDD") -> list[tuple[str, str, str, str]]:
    groups = diagnoses.split()
    return [(f"{scanner.lower()}{k}", scanner, scanner, groups[k % len(groups)]) for k in range(n)]


def travelers(name: str, n: int, scanners: str) -> list[tuple[str, str, str, str]]:
    return [(f"{name}{k}", scanner, "hub", "HC") for k in range(n) for scanner in scanners]


def study(*groups: list[tuple[str, str, str, str]]) -> pd.DataFrame:
    rows = [row for group in groups for row in group]
    table = pd.DataFrame(rows, columns=["participant_id", "scanner", "site", "diagnosis"])
    table.insert(0, "scan_id", [f"scan{k:03d}" for k in range(len(table))])
    people = table.participant_id.unique()
    rng = np.random.default_rng(3)
    return table.assign(
        age=table.participant_id.map(dict(zip(people, rng.integers(20, 70, len(people)), strict=True))),
        sex=table.participant_id.map(dict(zip(people, rng.choice(["F", "M"], len(people)), strict=True))),
    )


DESIGNS = {
    "traveling only": study(travelers("t", 6, "ABC")),
    "cohort only": study(cohort("A"), cohort("B"), cohort("C")),
    "both": study(travelers("t", 6, "ABC"), cohort("A"), cohort("B"), cohort("C")),
    "two components": study(travelers("t", 4, "AB"), travelers("u", 4, "CD"), *(cohort(k, 20) for k in "ABCD")),
    "patients on one scanner": study(cohort("A", 30, "HC"), cohort("B", 30, "HC"), cohort("C", 30, "MDD")),
    "one bridge": study(
        travelers("t", 5, "AB"), travelers("u", 5, "CD"), travelers("x", 1, "BC"), *(cohort(k) for k in "ABCD")
    ),
}
VERDICTS = {
    "traveling only": ("yes", "traveling", "6 travelers link all 3 scanners"),
    "cohort only": ("no", "cohort", "cannot be told apart from sampling bias: nobody was scanned on two scanners"),
    "both": ("yes", "traveling_and_cohort", "The effect of MDD can be told apart from the scanners"),
    "two components": ("partly", "traveling_and_cohort", "only among A and B and among C and D"),
    "patients on one scanner": ("no", "cohort", "The effect of MDD cannot be told apart from the scanners"),
    "one bridge": ("yes", "traveling_and_cohort", "Only traveler x0 links"),
}


@pytest.mark.parametrize("name", DESIGNS)
def test_the_verdict_says_what_a_design_can_separate(name):
    found = check(DESIGNS[name])
    separable, model, words = VERDICTS[name]
    assert (found.verdict.separable, found.verdict.model) == (separable, model)
    assert words in " ".join(found.verdict.sentences)
    assert 1 <= len(found.verdict.short) <= 4
    assert not found.is_refused and found.model == model
    assert f'bayesharm.fit(dataset, "{model}"' in found.verdict.command


def test_travelers_make_separable_what_was_not():
    alone = DESIGNS["patients on one scanner"]
    linked = pd.concat([alone, DESIGNS["traveling only"].assign(scan_id=[f"t{k}" for k in range(18)])], ignore_index=True)
    before, after = (check(table).precision.inflation for table in (alone, linked))
    assert before[before.of == "disorder"].largest.max() > INSEPARABLE
    assert after[(after.of == "disorder") & (after.by == "measurement")].largest.max() < 10


def test_advice_names_covariates_and_protocol_factors_of_the_table():
    found = check(DESIGNS["both"])
    assert "The table has age and sex" in " ".join(found.verdict.advice)
    assert "covariates=['age', 'sex']" in found.verdict.command
    assert "The table has" not in " ".join(check(DESIGNS["both"], covariates=["age"]).verdict.advice)
    assert "The table has" not in " ".join(check(DESIGNS["traveling only"]).verdict.advice)
    many = study(travelers("t", 4, "ABCDEF"), *(cohort(k, 8) for k in "ABCDEF"))
    many["Manufacturer"] = many.scanner.map(dict(zip("ABCDEF", ["GE", "GE", "S", "S", "P", "P"], strict=True)))
    assert "--model protocol" in " ".join(check(many).verdict.advice)
    assert check(many, "protocol").model == "protocol"


def test_a_covariate_with_codes_is_not_offered_but_named():
    coded = DESIGNS["both"].assign(age=DESIGNS["both"].age.where(DESIGNS["both"].index != 40, -9999))
    found = check(coded)
    assert not found.is_refused and "covariates=['sex']" in found.verdict.command
    assert [finding.severity for finding in found.findings if finding.code == "missing-code"] == ["caveat"]
    assert check(coded, covariates=["age"]).is_refused


def test_beside_time_the_age_at_the_first_scan_is_offered():
    """Not the age at the scan, which grows with the time; where the table has no other, the check says so."""
    table = simulate_longitudinal(3, seed=1, n_people=40).scans
    assert {"age", "baseline_age", "years"} <= set(table)
    found, without = check(table), check(table.drop(columns="baseline_age"))
    assert "covariates=['baseline_age', 'sex'], time='years'" in found.verdict.command
    assert "covariates=['sex'], time='years'" in without.verdict.command
    grows = "The column age grows over the scans of a person"
    assert grows in " ".join(without.verdict.advice) and grows not in " ".join(found.verdict.advice)
    assert grows in " ".join(check(table, covariates=["age"]).verdict.advice)
    by_age = check(table, time="age")
    assert "covariates=['sex'], time='age'" in by_age.verdict.command and grows not in " ".join(by_age.verdict.advice)
    assert "covariates=['age', 'sex']" in check(table, "cohort").verdict.command  # no trajectories: ages are ages


def test_a_slope_on_another_column_than_time_does_not_change_the_covariates():
    """Motion and dose are no times: the age is offered, and 300 mg between two scans are no 300 years."""
    table = simulate_longitudinal(3, seed=1, n_people=40).scans.drop(columns="baseline_age")
    table = table.assign(motion=np.linspace(0.1, 0.9, len(table)), dose=np.arange(len(table)) * 300.0)
    model = load_model("traveling_and_cohort")
    for by, column in (("scanner", "motion"), ("participant", "dose")):
        families = tuple(replace(each, slope=column if each.by == by else "") for each in model.families)
        found = check(table, replace(model, name="own", families=families))
        assert found.model == "own" and "covariates=['age', 'sex']" in found.verdict.command
        assert "grows over the scans" not in " ".join(found.verdict.advice)
        assert not {finding.code for finding in found.findings} & {"time-not-years", "fit-refused"}


def test_a_refused_model_is_a_finding_and_the_nearest_model_gives_the_numbers():
    found = check(DESIGNS["cohort only"], "traveling_and_cohort")
    assert found.is_refused and found.model == "cohort" and found.precision is not None
    assert found.verdict.sentences[0].startswith("A fit refuses these data: 1 error")
    assert found.findings[0].code == "fit-refused" and "traveling subjects" in found.findings[0].what
    other = DESIGNS["both"].replace({"diagnosis": {"HC": "Control"}})
    found = check(other)
    assert found.is_refused and "reference='Control'" in found.verdict.command
    assert not check(other, reference="Control").is_refused
    assert check(DESIGNS["both"], covariates=["height"]).is_refused


def test_input_that_is_no_study_is_refused():
    with pytest.raises(bayesharm.InputError, match="Dataset"):
        check([1, 2])
    with pytest.raises(bayesharm.InputError, match="does not exist"):
        check("scans.csv")
    with pytest.raises(bayesharm.InputError, match="one scanner"):
        check(study(cohort("A")))


# Expected precision against formulas ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("model", MODELS)
def test_expected_sds_are_those_of_the_joint_normal(model, seed):
    """Posterior sds of scanner differences from the covariance of all scans, as the definition of the model gives it."""
    scans = random_study(seed)
    spec = replace(spec_of(model, scans), covariates=("age",))
    design = build_design(scans, spec)
    scales = design.scale_medians * np.exp(np.random.default_rng(seed).normal(0, 0.5, len(design.scales)))
    found = precision_of(design, scales)
    by_name = dict(zip(design.scale_labels, scales, strict=True))
    used, joint = covariance(scans, spec, by_name, dict.fromkeys(design.scanners, 1.0))
    table = scans[used]

    def indicators(column: str) -> tuple[np.ndarray, np.ndarray]:
        """Levels of scanners and of scans."""
        of_scanner = (
            table.drop_duplicates("scanner")
            .set_index("scanner")
            .assign(scanner=lambda t: t.index)
            .loc[list(design.scanners), column]
        )
        levels = np.array(sorted(of_scanner.unique()))
        return of_scanner.to_numpy()[:, None] == levels, table[column].to_numpy()[:, None] == levels

    prior, shared = 0.0, 0.0
    for family in spec.families:
        if family.by == "scanner" or family.is_factor:
            scanners, rows = indicators(family.by)
            prior = prior + by_name[family.name] ** 2 * scanners @ scanners.T.astype(float)
            shared = shared + by_name[family.name] ** 2 * scanners @ rows.T.astype(float)
    posterior = prior - shared @ np.linalg.solve(joint, shared.T)
    centered = np.eye(len(prior)) - 1 / len(prior)
    expected = found.scanners.loc[list(design.scanners)]
    np.testing.assert_allclose(expected.prior_sd**2, np.diag(centered @ prior @ centered), atol=1e-9)
    np.testing.assert_allclose(expected.expected_sd**2, np.diag(centered @ posterior @ centered), atol=1e-9)
    np.testing.assert_allclose(expected.ratio, expected.expected_sd / expected.prior_sd)
    place = {name: k for k, name in enumerate(design.scanners)}
    i, j = found.pairs["first"].map(place), found.pairs["second"].map(place)
    difference = np.eye(len(prior))[i] - np.eye(len(prior))[j]
    np.testing.assert_allclose(found.pairs.expected_sd**2, np.diag(difference @ posterior @ difference.T), atol=1e-9)
    assert found.pairs.expected_sd.is_monotonic_decreasing


def test_expected_sds_are_the_errors_of_estimates_from_simulated_data():
    """The mean square error of the posterior mean, over 4,000 features drawn from the model itself."""
    design = build_design(random_study(1), load_model("traveling_and_cohort"))
    log_scales, equal = np.log(design.scale_medians), VarianceRatios.equal(len(design.scanners))
    rng = np.random.default_rng(0)
    prior = prior_variance(design, log_scales, equal)
    effects = rng.normal(size=(len(prior), 4000)) * np.sqrt(prior)[:, None]
    noise = np.sqrt(noise_variance(design, log_scales, equal))[design.scan_class]
    y = design.matrix @ effects + noise[:, None] * rng.normal(size=(design.n_scans, 4000))
    error = effects[design.of_scanner[:, 0]] - condition(design, y, log_scales, equal)[0][design.of_scanner[:, 0]]
    observed = ((error - error.mean(0)) ** 2).mean(1) ** 0.5
    expected = precision_of(design).scanners.loc[list(design.scanners)].expected_sd
    np.testing.assert_allclose(observed, expected, rtol=0.05)  # Monte-Carlo error of an sd: 1.1%


def test_expected_sds_are_near_those_of_a_fit(small_study, small_run):
    """Within a factor of 1.5, since scanners also differ in noise and in the size of their biases."""
    dataset = load_dataset(small_study / "scans.csv", small_study / "features.npy")
    found, posterior = check(dataset, "traveling_and_cohort"), load_posterior(small_run)
    effect = posterior.effect("measurement")
    sd = effect["sd"].values / posterior.scales["feature_scale"].values
    actual = pd.Series(np.sqrt((sd**2).mean(1)), effect["level"].values if "level" in effect.coords else posterior.scanners)
    ratio = found.precision.scanners.expected_sd / actual
    assert ratio.between(1 / 1.5, 1.5).all(), ratio
    assert found.scales_from == "features" and check(dataset.scans).scales_from == "prior"


@pytest.mark.parametrize("model", ["cohort", "traveling", "traveling_and_cohort"])
def test_typical_scales_maximize_the_likelihood_of_all_features(model):
    """Within half a unit of the log likelihood of 60 features: fifty steps are not all the way."""
    design = build_design(random_study(0), load_model(model))
    equal = VarianceRatios.equal(len(design.scanners))
    rng, log_scales = np.random.default_rng(1), np.log(design.scale_medians)
    effects = rng.normal(size=(len(design.columns), 60)) * np.sqrt(prior_variance(design, log_scales, equal))[:, None]
    noise = np.sqrt(noise_variance(design, log_scales, equal))[design.scan_class]
    values = np.full((len(random_study(0)), 60), np.nan)
    values[design.rows] = design.matrix @ effects + noise[:, None] * rng.normal(size=(design.n_scans, 60))
    found = np.log(estimate_scales(design, values))
    y = values[design.rows]
    y = (y - y.mean(0)) / y.std(0)

    def total(log_scales: np.ndarray) -> float:
        return sum(log_likelihood(design, column, log_scales, equal) for column in y.T)

    best = total(found)
    for k in range(len(found)):
        for step in (-0.4, 0.4):
            assert total(found + step * (np.arange(len(found)) == k)) < best + 0.5, (design.scale_labels[k], step)


def test_typical_scales_hardly_depend_on_holes():
    scans = read_scans(study(travelers("t", 15, "ABC"), *map(cohort, "ABC")))
    rng = np.random.default_rng(0)
    people, biases = rng.normal(0, 1, (scans.participant_id.nunique(), 80)), rng.normal(0, 1, (3, 80))
    y = people[pd.factorize(scans.participant_id)[0]] + biases[pd.factorize(scans.scanner)[0]]
    y += rng.normal(0, 0.5, y.shape)
    holed = np.where(rng.random(y.shape) < 0.05, np.nan, y)
    whole, found = (check(Dataset(scans, Features.from_array(each))) for each in (y, holed))
    assert found.scales_from == "features"
    for name in ("noise", "participant", "measurement"):
        assert found.precision.scales[name] == pytest.approx(whole.precision.scales[name], rel=0.15), name


@pytest.mark.parametrize("name", ["both", "two components", "cohort only"])
def test_gains_are_those_of_a_study_with_these_travelers(name):
    """Exact at given scales: the table of the longer study, conditioned as a whole."""
    scans = read_scans(DESIGNS[name])
    spec = replace(load_model("traveling_and_cohort"), requires_travelers=False)
    gains = expect_gains(scans, load_model("cohort" if name == "cohort only" else "traveling_and_cohort"))
    assert all(part.all_2.is_monotonic_increasing for _, part in gains.groupby("is_linked"))
    row = gains.iloc[0]
    for added in (0, 1, 2, int(row.to_halve)):
        visits = study(travelers("new", max(added, 2), f"{row['first']}{row['second']}"))
        is_there = np.repeat([True] * added + [False] * (max(added, 2) - added), 2)
        # the person who is not there keeps the scale of participants in the model, as in the check
        longer = read_scans(pd.concat([scans, visits.assign(scan_id=[f"n{k}" for k in range(len(visits))])]))
        design = build_design(longer, spec)
        weights = np.append(np.full(len(scans), True), is_there)
        by_name = dict(zip(design.scale_labels, design.scale_medians, strict=True))
        _, joint = covariance(longer, spec, by_name, dict.fromkeys(design.scanners, 1.0))
        tau = by_name["measurement"] ** 2
        z = np.array([longer.scanner == scanner for scanner in design.scanners], float)[:, weights]
        posterior = tau * np.eye(len(z)) - tau**2 * z @ np.linalg.solve(joint[np.ix_(weights, weights)], z.T)
        c = np.array([s == row["first"] for s in design.scanners], float) - [s == row["second"] for s in design.scanners]
        sd, everyone = np.sqrt(c @ posterior @ c), posterior - posterior.mean(0)
        if added <= 2:
            np.testing.assert_allclose(row[f"sd_{added}"], sd, rtol=1e-9)
            np.testing.assert_allclose(row[f"all_{added}"], np.sqrt(np.trace(everyone) / len(z)), rtol=1e-9)
        else:
            assert sd <= row.sd_0 / 2
    needed = int(np.ceil((0.8 / 0.3) ** 2))  # travelers who say as much on a difference as the prior: sigma² / tau²
    assert row.to_link == {"both": needed - 6, "cohort only": needed}.get(name, row.to_link)
    assert row.to_link > 0


def test_the_next_traveler_is_nobodys_sibling():
    """Whoever comes first in the table."""
    scans, spec = random_study(2), load_model("traveling_and_cohort")
    spec = replace(spec, families=(*spec.families, Family("sibling", "family_id", 0.6, scaled_by_gain=True)))
    gains, reverse = (expect_gains(each.reset_index(drop=True), spec) for each in (scans, scans[::-1]))
    np.testing.assert_allclose(gains.filter(like="sd_"), reverse.filter(like="sd_"), rtol=1e-9)


def test_gains_prefer_scanners_that_nobody_links():
    row = check(DESIGNS["two components"]).gains.iloc[0]
    assert {row["first"] in "AB", row["second"] in "AB"} == {True, False} and not row.is_linked


# Counts, links, confounding ---------------------------------------------------------------------------------------------


def test_counts_of_a_design():
    counts = check(DESIGNS["both"]).counts
    assert counts.totals == {
        "scans": 108, "people": 96, "travelers": 6, "people_scanned_once": 90, "scanners": 3, "sites": 4,
    }  # fmt: skip
    assert (counts.scanners == [36, 36, 6, 30]).all(axis=None)
    assert (counts.diagnoses == 15).all(axis=None) and list(counts.diagnoses) == ["HC", "MDD"]
    assert (counts.travelers == 3).all(axis=None) and len(counts.travelers) == 6
    assert counts.scans_per_person.to_dict() == {1: 90, 3: 6}
    assert re.fullmatch(r"\d+ ± \d+", counts.described.loc["A", "age"])
    assert re.fullmatch(r"[FM]: \d+%", counts.described.loc["A", "sex"])


@pytest.mark.parametrize("seed", range(6))
def test_bridges_are_the_people_without_whom_a_group_falls_apart(seed):
    rng = np.random.default_rng(seed)
    rows = [(f"p{k}", s) for k in range(7) for s in rng.choice(list("ABCDEF"), rng.integers(1, 4), replace=False)]
    scans = read_scans(pd.DataFrame(rows, columns=["participant_id", "scanner"]))
    links = find_links(scans)

    def n_groups(table: pd.DataFrame) -> int:
        groups = {name: {name} for name in scans.scanner}
        for _, seen in table.groupby("participant_id").scanner:
            merged = set().union(*(groups[name] for name in seen))
            groups |= dict.fromkeys(merged, merged)
        return len({frozenset(group) for group in groups.values()})

    assert len(links.components) == n_groups(scans)
    expected = {p for p in scans.participant_id if n_groups(scans[scans.participant_id != p]) > n_groups(scans)}
    assert set(links.bridges) == expected
    together = scans.groupby("participant_id").scanner.agg(set)
    for pair in links.pairs.itertuples():
        assert pair.travelers == sum({pair.first, pair.second} <= seen for seen in together)


def test_shares_are_adjusted_r_squared():
    rng = np.random.default_rng(0)
    groups = pd.Series(rng.choice(list("ABCDE"), 80))
    values = pd.Series(rng.normal(size=80) + groups.map(dict(zip("ABCDE", range(5), strict=True))))
    dummies = pd.get_dummies(groups).to_numpy(float)
    residual = values - dummies @ np.linalg.lstsq(dummies, values, rcond=None)[0]
    expected = 1 - (residual @ residual / 75) / (((values - values.mean()) ** 2).sum() / 79)
    assert adjusted_share(values, groups) == pytest.approx(expected)
    assert adjusted_share(pd.Series(rng.normal(size=80)), groups) < 0.1
    assert np.isnan(adjusted_share(pd.Series(np.ones(80)), groups))
    other = pd.Series(rng.choice(list("xyz"), 80))
    q = [np.linalg.qr(pd.get_dummies(each).to_numpy(float) - pd.get_dummies(each).to_numpy(float).mean(0))[0][:, :-1]
         for each in (groups, other)]  # fmt: skip
    assert canonical_share(groups, other) == pytest.approx(np.linalg.svd(q[0].T @ q[1])[1][0] ** 2)
    assert canonical_share(groups, groups.map(dict(zip("ABCDE", "xxyyz", strict=True)))) == pytest.approx(1)


def test_confounding_finds_what_goes_with_the_scanner():
    scans = DESIGNS["patients on one scanner"].assign(
        acq_date=lambda t: "2020-0" + (1 + t.scanner.map("ABC".index)).astype(str) + "-15"
    )
    scans["handedness"] = scans.scanner.map({"A": "left", "B": "right", "C": "both"})
    share = check(scans).confounding.set_index(["of", "with"]).share
    assert share["diagnosis MDD", "scanner"] == share["acq_date", "scanner"] == share["handedness", "scanner"] == 1
    assert share["age", "scanner"] < 0.1 > share["sex", "scanner"]


# Features ---------------------------------------------------------------------------------------------------------------


def test_constant_duplicated_and_incomplete_features_are_found():
    y = np.random.default_rng(1).normal(2, 0.3, (80, 500)).astype(np.float32)
    y[:, 7], y[:, 9], y[:, 4], y[:, 80] = 1000 * y[:, 3], 5 - y[:, 3], 2.5, np.nan
    y[3:30, 60], y[0, 70], y[5, 90] = np.nan, np.nan, np.inf
    y[:, 61], y[:, 71] = y[:, 60], 3 * y[:, 70]
    found = check_features(Features.from_array(y), pd.Series(range(80)).astype(str))
    assert found.duplicated == tuple(
        (f"feature_{a:04d}", *(f"feature_{b:04d}" for b in rest)) for a, *rest in ((3, 7, 9), (60, 61), (70, 71))
    )
    assert found.constant == ("feature_0004",) and found.empty == ("feature_0080",)
    assert found.infinite == ("feature_0090",)
    assert found.missing.n_missing.to_dict() == {
        "feature_0080": 80, "feature_0060": 27, "feature_0061": 27, "feature_0070": 1, "feature_0071": 1,
    }  # fmt: skip
    assert found.missing_scans.n_missing["0"] == 3 and len(found.missing_scans) == 80


def test_features_are_part_of_the_findings():
    scans = read_scans(DESIGNS["both"])
    y = np.random.default_rng(0).normal(size=(len(scans), 50))
    y[7] += 6
    y[:, 3], y[:, 6], y[:50, 9] = 1.0, y[:, 5], np.nan
    found = check(Dataset(scans, Features.from_array(y)))
    by_code = {finding.code: finding for finding in found.findings}
    assert by_code["constant-features"].columns == ("feature_0003",) and found.is_refused
    assert by_code["duplicated-features"].columns == ("feature_0005", "feature_0006")
    assert by_code["incomplete-features"].columns == ("feature_0009",)
    assert by_code["outlying-scans"].scans == ("scan007",)
    assert "50 of 5,400 values are missing" in str(found)


@pytest.mark.parametrize("kind", ["independent", "correlated", "noisy scanners"])
def test_outlying_scans_are_found_and_false_alarms_are_rare(kind):
    alarms = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        scanner = pd.Series(rng.choice(list("ABCD"), 120))
        y = rng.normal(size=(120, 100))
        if kind == "correlated":
            y = 0.5 * y + rng.normal(size=(120, 8)) @ rng.normal(size=(8, 100)) / 3
        if kind == "noisy scanners":
            y *= scanner.map(dict(zip("ABCD", (0.5, 1, 1, 3), strict=True))).to_numpy()[:, None]
        scans = pd.DataFrame({"scan_id": [f"s{k}" for k in range(120)], "participant_id": range(120), "scanner": scanner})
        alarms += len(find_outlying(Features.from_array(y), scans)) > 0
        if seed == 0:
            y[17] = y[17] * 4
            assert list(find_outlying(Features.from_array(y), scans).index) == ["s17"]
    assert alarms <= 7  # of 60 studies: 5% are 3; more than 7 has a probability of 1%


# Page, JSON, commands ---------------------------------------------------------------------------------------------------

KEYS = {
    "format", "refused", "model", "covariates", "formula", "protocol", "verdict", "counts", "scanners", "travelers", "links",
    "confounding", "precision", "gains", "features", "outlying_scans", "findings", "caveats",
}  # fmt: skip


@pytest.mark.parametrize("name", DESIGNS)
def test_the_page_fits_and_the_json_says_the_same(name, tmp_path):
    found = check(DESIGNS[name])
    page = str(found)
    assert max(map(len, page.splitlines())) <= 100
    assert found.verdict.command in page and " nan" not in page
    content = json.loads(found.to_json(tmp_path / "check.json"))
    assert content == json.loads((tmp_path / "check.json").read_text())
    assert set(content) == KEYS and content["verdict"]["separable"] == found.verdict.separable
    assert {row["scanner"] for row in content["scanners"]} == set(DESIGNS[name].scanner)
    assert all(row["expected_sd"] < row["prior_sd"] for row in content["scanners"])
    assert found.verdict.sentences[0][:20] in html.unescape(found._repr_html_()) and repr(found) == page


def test_long_names_and_many_scanners_fit():
    rng = np.random.default_rng(0)
    names = [f"A very long name of a scanner, number {k}" for k in range(45)]
    rows = [(f"t{k}", name) for k in range(8) for name in rng.choice(names, 8, replace=False)]
    rows += [(f"p{k}-{name}", name) for name in names for k in range(6)]
    scans = pd.DataFrame(rows, columns=["participant_id", "scanner"]).assign(
        diagnosis=rng.choice(list("abcdefgh"), len(rows))
    )
    page = str(check(scans, reference="a"))
    assert max(map(len, page.splitlines())) <= 100


def test_a_factor_that_all_features_share_makes_no_scan_outlying():
    """Such as a global signal: its square has a long tail, which the distance of a scan then has too."""
    rng, alarms = np.random.default_rng(6), 0
    for _ in range(40):
        people = [f"p{k}" for k in range(120)]
        scans = pd.DataFrame({"scan_id": people, "participant_id": people, "scanner": list("ABCDEF") * 20})
        values = 0.55 * rng.normal(size=(120, 1)) * rng.normal(size=100) + 0.84 * rng.normal(size=(120, 100))
        alarms += len(find_outlying(Features.from_array(values), scans)) > 0
    assert alarms <= 6  # of 40 studies: 5% are 2; more than 6 has a probability below 1%


def test_the_keys_of_the_json_are_documented():
    text = DOCS.read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) >= KEYS


def test_the_page_in_the_docs_is_what_the_commands_print(tmp_path, monkeypatch):
    text = DOCS.read_text()
    commands = re.findall(r"^    bayesharm (simulate .*|check study/.*)$", text, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    results = [CliRunner().invoke(app, command.split()) for command in commands]
    shown = text.split("<!-- output -->\n\n")[1].split("\n\n<!-- end")[0]
    assert len(results) == 2 and [line[4:] for line in shown.splitlines()] == results[1].output.rstrip().splitlines()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("check")
    for name in ("both", "cohort only"):
        DESIGNS[name].to_csv(folder / f"{name}.csv", index=False)
        np.save(folder / f"{name}.npy", np.random.default_rng(0).normal(size=(len(DESIGNS[name]), 40)))
    return folder


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (["both.csv", "both.npy", "--json", "OUT"], 0, "bayesharm fit"),
        (["both.csv"], 0, "FEATURES"),
        (["cohort only.csv", "cohort only.npy", "--model", "traveling"], 1, "a fit refuses this study"),
        (["both.csv", "both.npy", "--json", "check.txt"], 2, "--json has a format"),
        (["absent.csv"], 2, "does not exist"),
        (["both.csv", "both.npy", "--participant", "who"], 2, "no column 'who'"),
    ],
)
def test_exit_codes_of_the_command(folder, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(folder)
    out = tmp_path / "check.json"
    result = CliRunner().invoke(app, ["check", *(str(out) if word == "OUT" else word for word in arguments)])
    assert result.exit_code == code, result.output
    assert words in result.output
    assert max(map(len, result.output.splitlines())) <= 100 or code == 2
    if "OUT" in arguments:
        assert set(json.loads(out.read_text())) == KEYS
        assert CliRunner().invoke(app, ["check", "both.csv", "--json", str(out)]).exit_code == 2  # never overwritten


def test_the_next_command_can_be_typed(folder, monkeypatch):
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(app, ["check", "cohort only.csv", "cohort only.npy"])
    command = result.output.split("Next\n")[1].split("\n\n")[0].replace("\\\n", "")
    assert command.split() == (
        "bayesharm fit 'cohort only.csv' 'cohort only.npy' --model cohort --covariates age,sex --seed 1 --out run/".split()
    )


def test_the_next_command_names_the_model_that_was_asked_for(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["models", "new", "mine", "--from", "traveling_and_cohort"]).exit_code == 0
    relabelled = DESIGNS["both"].replace({"diagnosis": {"HC": "Control"}})
    relabelled.to_csv("relabelled.csv", index=False)
    for table, model, code, told in (
        (folder / "both.csv", "mine", 0, "--model mine --covariates age,sex"),
        (folder / "both.csv", "cohort", 0, "--model cohort --covariates age,sex"),
        (folder / "both.csv", "traveling", 0, "--model traveling --seed 1"),
        ("relabelled.csv", "mine", 1, "Add --reference Control if that is the reference group"),
        (folder / "cohort only.csv", "traveling", 1, "Correct the errors"),
    ):
        result = CliRunner().invoke(app, ["check", str(table), "--model", model])
        words, command = (" ".join(part.replace("\\\n", "").split()) for part in result.output.split("Next\n"))
        assert result.exit_code == code and told in command, result.output
        recommended = "cohort" if table == folder / "cohort only.csv" else "traveling_and_cohort"
        assert f"Model: {model}, as asked. - The check recommends {recommended}, because" in words
        assert (f"A fit of {model} would be refused" in words) == (recommended == "cohort")


@pytest.mark.parametrize("command", ["fit", "check", "evaluate"])
def test_a_wrong_model_is_refused_before_the_tables_are_read(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    CliRunner().invoke(app, ["models", "new", "mine", "--from", "cohort"])
    sound = Path("mine/model.toml").read_text()
    out = ["--out", "run"] if command == "fit" else []
    for text, message in (
        (sound + "[prior]\n", "the key 'prior' is unknown"),
        (sound.replace('formula = ""', 'formula = "bs(age"'), "formula"),
    ):
        Path("mine/model.toml").write_text(text)
        result = CliRunner().invoke(app, [command, "absent.csv", "absent.npy", "--model", "mine", *out])
        assert isinstance(result.exception, SystemExit) and result.exit_code == 2
        assert message in result.output.lower() and "absent" not in result.output


def test_a_refused_study_has_its_errors_at_the_end(folder, monkeypatch):
    monkeypatch.chdir(folder)
    arguments = ["both.csv", "both.npy", "--formula", "height + bs(sex, df=4)"]
    lines = CliRunner().invoke(app, ["check", *arguments]).output.splitlines()
    starts = [k for k, line in enumerate(lines) if line == "Errors: a fit refuses this study (2)"]
    assert len(starts) == 2 and lines[lines.index("Next") + 1].strip().startswith("Correct the errors")
    of_sex = " - The formula uses the column 'sex' as a number, but it has categories."
    assert lines[starts[1] + 1] == " - The scans table has no column 'height', which the formula uses."
    assert lines[starts[1] + 2] == of_sex and not "".join(lines[starts[1] + 3 :]).strip()
    assert any(line.startswith(of_sex + " Found: ") for line in lines) and "bayesharm fit" not in "".join(lines)


def test_a_long_command_is_broken_where_a_shell_continues_it(folder, monkeypatch):
    monkeypatch.chdir(folder)
    table = pd.read_csv("both.csv").rename(columns={"participant_id": "identifier of the participant"})
    table.assign(**{f"thickness {k}": np.cos(k * np.arange(len(table))) for k in range(1, 5)}).to_csv(
        "wide.csv", index=False
    )
    options = [word for k in range(1, 5) for word in ("--features", f"thickness {k}")]
    options += ["--participant", "identifier of the participant"]
    result = CliRunner().invoke(app, ["check", "wide.csv", *options, "--covariates", "age"])
    lines = result.output.split("Next\n")[1].split("\n\n")[0].splitlines()
    assert len(lines) > 2 and all(line.endswith(" \\") for line in lines[:-1]) and max(map(len, lines)) <= 100
    words = shlex.split("\n".join(lines).replace("\\\n", ""))
    assert words[:3] == ["bayesharm", "fit", "wide.csv"] and words[3 : 3 + len(options)] == options


def test_a_run_keeps_its_check_and_the_report_shows_it(small_run):
    from bayesharm.reporting.run_view import RunView
    from bayesharm.reporting.sections.study import describe_check

    kept = load_posterior(small_run).run["check"]
    assert set(kept) == KEYS - {"findings", "caveats"} and kept["model"] == "traveling_and_cohort"
    section = describe_check(RunView(load_posterior(small_run)))
    assert section.sentences[0] == kept["verdict"]["sentences"][0]
    assert "partly" == kept["verdict"]["separable"] and section.tables[0].frame.loc["delta", "travelers"] == 0


def test_no_jax_is_imported(folder):
    code = "import sys; from bayesharm.cli.app import app; app(['check', 'both.csv', 'both.npy'], standalone_mode=False); "
    run = subprocess.run([sys.executable, "-c", code + "assert 'jax' not in sys.modules"], cwd=folder, capture_output=True)
    assert run.returncode == 0, run.stderr.decode()


@pytest.mark.slow
def test_time_grows_with_the_number_of_scans_only():
    """Four times the scans take less than twelve times as long: nothing grows with the square of the number of people."""

    def seconds(n: int) -> float:
        scans = study(travelers("t", 6, "ABCDEFGH"), *(cohort(k, n) for k in "ABCDEFGH"))
        dataset = Dataset(read_scans(scans), Features.from_array(np.random.default_rng(0).normal(size=(len(scans), 60))))
        start = perf_counter()
        check(dataset)
        return perf_counter() - start

    seconds(20)
    assert min(seconds(280) for _ in range(2)) < 12 * min(seconds(65) for _ in range(2))


# Real studies -----------------------------------------------------------------------------------------------------------


def test_real_studies(data_dir):
    rpn = check(data_dir / "rpn_scans.csv", columns={"scanner": "site"})
    assert rpn.verdict.separable == "no" and rpn.verdict.model == "cohort" and "nobody was scanned on two" in str(rpn)
    columns = {"participant_id": "sub_id", "scanner": "site"}
    fcon = check(load_dataset(data_dir / "fcon1000.csv", columns=columns, select="*thickness"))
    assert fcon.verdict.separable == "no" and fcon.confounding.of[0] == "age" and len(fcon.outlying) > 0
    columns = {"participant_id": "subject", "scanner": "scanner_typeloc"}
    select = "freesurfer_*ThickAvg*"
    onharmony = check(load_dataset(data_dir / "onharmony.csv", columns=columns, select=select, bad_features="keep"))
    assert onharmony.verdict.separable == "yes" and onharmony.verdict.model == "traveling"
    assert onharmony.precision.scales["participant"] > onharmony.precision.scales["noise"]
    assert onharmony.features.missing.n_missing.max() == 60
