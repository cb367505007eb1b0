"""Metrics of harmonized data against closed forms, known truths and their definitions; and their standard errors."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bayesharm import InputError, load_dataset, simulate_srpbs, yamashita2019
from bayesharm.evaluation.metrics import (
    average,
    between_scanner_sd,
    bias_error,
    combine,
    difference,
    difference_from_others,
    effect_magnitudes,
    effect_preservation,
    identification_rate,
    interval_coverage,
    noise_floor,
    participant_icc,
    prediction_rmse,
    scanner_accuracy,
    share_removed,
)

FAR = stats.norm.isf(1e-5)  # in standard errors: a false alarm in 50,000
SCANNERS = ("A", "B", "C", "D")
N_FEATURES = 12


def make_scans(counts: dict[str, dict[str, int]]) -> pd.DataFrame:
    """Scans of people from their numbers on each scanner."""
    rows = [(person, scanner) for person, of in counts.items() for scanner, n in of.items() for _ in range(n)]
    return pd.DataFrame(rows, columns=["participant_id", "scanner"])


def everywhere(people: int, scanners: int, scans: int = 1) -> pd.DataFrame:
    return make_scans({f"p{i:02d}": dict.fromkeys(SCANNERS[:scanners], scans) for i in range(people)})


UNBALANCED = make_scans({
    "t0": {"A": 2, "B": 1, "C": 1}, "t1": {"A": 1, "B": 3}, "t2": {"A": 1, "C": 2, "D": 1}, "t3": {"B": 1, "C": 1, "D": 2},
    "t4": {"A": 1, "B": 1, "C": 1, "D": 1}, "t5": {"C": 3, "D": 1}, "r0": {"A": 2},
})  # fmt: skip


def effects_of(labels: pd.Series, n_features: int, sd: float, rng: np.random.Generator) -> np.ndarray:
    codes, names = pd.factorize(labels)
    return rng.normal(0, sd, (len(names), n_features))[codes]


def simulate(scans: pd.DataFrame, n_features: int, rng: np.random.Generator, person=1.0, scanner=0.8, noise=0.6):
    """Values and the effects of scanners in them; `noise` may be a sd for each scan."""
    bias = effects_of(scans.scanner, n_features, scanner, rng)
    people = effects_of(scans.participant_id, n_features, person, rng)
    sd = np.broadcast_to(noise, len(scans))[:, None]
    return 3 + people + bias + sd * rng.standard_normal((len(scans), n_features)), bias


@pytest.fixture(scope="module")
def study() -> tuple[np.ndarray, pd.DataFrame]:
    """Travelers on some of four scanners, once or more, and people scanned once, with diagnosis and age; shuffled."""
    cohort = {f"c{i:02d}": {SCANNERS[i % 4]: 1} for i in range(24)}
    scans = pd.concat([UNBALANCED, make_scans(cohort)], ignore_index=True)
    scans = scans.sample(frac=1, random_state=1).reset_index(drop=True)
    rng = np.random.default_rng(5)
    number = scans.participant_id.str[1:].astype(int)
    scans["age"] = 20 + number.map(dict(enumerate(rng.integers(0, 40, 24))))
    scans["diagnosis"] = np.where((number // 4 % 2 == 1) & scans.participant_id.str.startswith("c"), "MDD", "HC")
    scans["site"] = scans.scanner
    scans.insert(0, "scan_id", [f"s{i}" for i in range(len(scans))])
    values, _ = simulate(scans, N_FEATURES, rng)
    values += np.outer(scans.age - 40, rng.normal(0, 0.05, N_FEATURES))
    values += np.outer(scans.diagnosis == "MDD", rng.normal(0, 0.5, N_FEATURES))
    values.setflags(write=False)  # measures must not write into it
    return values, scans


def preserved(values, scans, which="age", number=0):
    return effect_preservation(values, scans, ["age", "diagnosis"], raw=values + 0.1 * values**2)[which][number]


MEASURES = {
    "between_scanner_sd": between_scanner_sd,
    "repeats": noise_floor,
    "residual": lambda values, scans: noise_floor(values, scans, of="residual"),
    "icc": participant_icc,
    "identification": lambda values, scans: identification_rate(values, scans, center=3.0, unit=1.0),
    "rmse": lambda values, scans: prediction_rmse(difference_from_others(values, scans), scans),
    "coverage": lambda values, scans: interval_coverage(values, np.full_like(values, 3), np.ones_like(values), scans),
    "correlation": preserved,
    "slope": lambda values, scans: preserved(values, scans, "diagnosis: MDD", 1),
    "rms": lambda values, scans: preserved(values, scans, "diagnosis: MDD", 2),
    "reference": lambda values, scans: preserved(values, scans, "age", 3),
    "difference": lambda values, scans: preserved(values, scans, "age", 4),
    "measurement": lambda values, scans: effect_magnitudes(values, scans).measurement,
    "participant": lambda values, scans: effect_magnitudes(values, scans).participant_ratio,
    "disorder": lambda values, scans: effect_magnitudes(values, scans).disorder_ratio,
}


@pytest.mark.parametrize("name", MEASURES)
def test_without_a_participant_it_is_what_the_others_give(study, name):
    values, scans = study
    found = MEASURES[name](values, scans)
    for person, without in found.replicates.items():
        others = (scans.participant_id != person).to_numpy()
        assert without == pytest.approx(MEASURES[name](values[others], scans[others]).value, rel=1e-8)  # rounding
    deviations = found.replicates - found.replicates.mean()
    n = len(found.replicates)
    assert found.se == pytest.approx(np.sqrt((n - 1) / n * (deviations**2).sum()))
    assert found.se > 0


@pytest.mark.parametrize("name", [*MEASURES, "accuracy"])
def test_scans_that_a_method_could_not_correct_are_as_if_not_there(study, name):
    measure = MEASURES.get(name) or (lambda values, scans: scanner_accuracy(values, scans, unit=1.0, folds=3))
    values, scans = study
    lost = ((scans.scanner == "D") | (scans.participant_id == "c01")).to_numpy()
    holes = np.where(lost[:, None], np.nan, values)
    found, expected = measure(holes, scans), measure(values[~lost], scans[~lost])
    assert found.value == pytest.approx(expected.value, rel=1e-12)
    assert found.se == pytest.approx(expected.se, rel=1e-9)
    assert found.n_scans == expected.n_scans == found.scan_mask.sum() <= (~lost).sum()
    assert found.n_features == N_FEATURES
    assert not found.scan_mask[lost].any()


def test_a_feature_with_a_missing_value_and_one_without_a_unit_are_left_out(study):
    values, scans = study
    holes = values.copy()
    holes[3, 0] = np.nan
    unit = np.where(np.arange(N_FEATURES) == 4, 0.0, 2.0)
    found = prediction_rmse(holes, scans, unit=unit)
    some = np.delete(values, [0, 4], axis=1)
    assert found.n_features == N_FEATURES - 2
    assert found.value == pytest.approx(prediction_rmse(some, scans).value / 2)


@pytest.mark.parametrize(
    "name", ["between_scanner_sd", "repeats", "residual", "icc", "identification", "rmse", "measurement"]
)
def test_without_travelers_it_says_so(study, name):
    values, scans = study
    cohort = scans.participant_id.str.contains("c|r").to_numpy()
    with pytest.raises(InputError, match=r"(?s)Nobody was scanned on several scanners.*25 people.*traveling subjects"):
        MEASURES[name](values[cohort], scans[cohort])


def test_values_without_their_scans_and_scans_without_values_are_refused(study):
    values, scans = study
    with pytest.raises(InputError, match=r"(?s)do not match.*a row of values for each scan"):
        between_scanner_sd(values[:-1], scans)
    with pytest.raises(InputError, match=r"(?s)No complete data are left.*0 scans with values"):
        scanner_accuracy(np.full_like(values, np.nan), scans, unit=1.0)


# Standard errors and differences


def test_differences_between_methods_are_paired(study):
    values, scans = study
    rng = np.random.default_rng(1)
    one, other = participant_icc(values, scans), participant_icc(values + 0.02 * rng.normal(size=values.shape), scans)
    found = difference(one, other)
    assert found.value == one.value - other.value
    assert found.se == pytest.approx(combine(lambda a, b: a - b, one, other).se)
    assert found.se < 0.2 * min(one.se, other.se)
    with pytest.raises(
        InputError, match=r"(?s)different scans or features.*24 scans × 12 features against 24 × 11.*set the scans"
    ):
        difference(one, participant_icc(values[:, 1:], scans))


def test_who_has_no_part_in_a_measure_leaves_it_as_it_is(study):
    values, scans = study
    floor, spread = noise_floor(values, scans), between_scanner_sd(values, scans)
    assert "r0" in floor.replicates and "r0" not in spread.replicates
    ratio = combine(np.divide, spread, floor)
    assert ratio.replicates["r0"] == pytest.approx(spread.value / floor.replicates["r0"])
    assert ratio.replicates["t1"] == pytest.approx(spread.replicates["t1"] / floor.replicates["t1"])


def test_parts_of_a_study_are_averaged_with_their_standard_errors():
    rng, scans = np.random.default_rng(22), everywhere(30, 3)
    values, _ = simulate(scans, 20, rng, scanner=0.5)
    half = (scans.participant_id < "p15").to_numpy()[:, None]
    parts = [scanner_accuracy(np.where(part, values, np.nan), scans, unit=1.0) for part in (half, ~half)]
    found = average(*parts)
    assert found.value == pytest.approx(np.mean([part.value for part in parts]))
    assert found.n_scans == 90 and len(found.replicates) == 30
    # (n - 1) / n of 30 people against that of 15 twice
    expected = np.sqrt(sum(part.se**2 for part in parts)) / 2
    assert found.se == pytest.approx(expected * np.sqrt(29 / 30 * 15 / 14))
    assert found.chance == pytest.approx(1 / 3)
    assert found.chance_sd == pytest.approx(np.sqrt(sum(part.chance_sd**2 for part in parts)) / 2)
    again = average(parts[0], parts[0])
    assert (again.value, again.se, again.chance_sd) == pytest.approx((parts[0].value, parts[0].se, parts[0].chance_sd))


def test_the_standard_error_is_that_of_repeated_studies():
    """400 studies of 15 people: the mean estimated variance against that of the estimates, whose relative sd is √(2/400)."""
    rng, scans = np.random.default_rng(3), everywhere(15, 3)
    bias = np.repeat([[[0.0], [0.5], [1.0]]], 15, axis=0).reshape(-1, 1)
    values, variances = [], []
    for _ in range(400):
        found = between_scanner_sd(bias + rng.normal(0, 1, (len(scans), 5)), scans)
        values.append(found.value)
        variances.append(found.se**2)
    assert np.mean(variances) / np.var(values, ddof=1) == pytest.approx(1.04, abs=0.04 + FAR * np.sqrt(2 / 400))


# Within people


def chunk_means(function, values: np.ndarray, n: int = 40) -> tuple[float, float]:
    """Mean and standard error of a number over chunks of independent features."""
    numbers = [function(chunk) for chunk in np.array_split(values, n, axis=1)]
    return np.mean(numbers), np.std(numbers, ddof=1) / np.sqrt(n)


def test_in_a_balanced_study_it_is_the_nested_analysis_of_variance():
    people, scanners, repeats, rng = 5, 3, 2, np.random.default_rng(0)
    scans = everywhere(people, scanners, repeats)
    values, _ = simulate(scans, 7, rng)
    y = values.reshape(people, scanners, repeats, 7)
    means = y.mean(2)
    ms_scanner = repeats * ((means - means.mean(1, keepdims=True)) ** 2).sum((0, 1)) / (people * (scanners - 1))
    ms_noise = ((y - means[:, :, None]) ** 2).sum((0, 1, 2)) / (people * scanners * (repeats - 1))
    component = (ms_scanner - ms_noise) / repeats
    assert between_scanner_sd(values, scans).value == pytest.approx(np.sqrt((component + ms_noise).mean()))
    assert noise_floor(values, scans).value == pytest.approx(np.sqrt(ms_noise.mean()))
    y = means - means.mean(0) - means.mean(1, keepdims=True) + means.mean((0, 1))
    one = values[scans.groupby(["participant_id", "scanner"]).cumcount() == 0].reshape(people, scanners, 7)
    left = one - one.mean(0) - one.mean(1, keepdims=True) + one.mean((0, 1))
    residual = noise_floor(one.reshape(-1, 7), everywhere(people, scanners), of="residual").value
    assert residual == pytest.approx(np.sqrt((left**2).sum((0, 1)).mean() / ((people - 1) * (scanners - 1))))


def test_in_an_unbalanced_study_variances_are_unbiased():
    """Standard errors over chunks of features, with 39 degrees of freedom."""
    rng, bound = np.random.default_rng(2), stats.t.isf(1e-5, 39)
    values, bias = simulate(UNBALANCED, 4000, rng)
    mean, se = chunk_means(lambda y: between_scanner_sd(y, UNBALANCED).value ** 2, values)
    assert abs(mean - (0.8**2 + 0.6**2)) < bound * se
    mean, se = chunk_means(lambda y: between_scanner_sd(y, UNBALANCED).value ** 2, values - bias)
    assert abs(mean - 0.6**2) < bound * se
    for of in ("repeats", "residual"):
        mean, se = chunk_means(lambda y, of=of: noise_floor(y, UNBALANCED, of=of).value ** 2, values)
        assert abs(mean - 0.6**2) < bound * se
        assert se < 0.02


def test_the_floor_of_scanners_with_unequal_noise_is_what_remains_without_bias():
    rng = np.random.default_rng(4)
    scans = make_scans({f"p{i}": {"A": 6, "B": 2, "C": 2} for i in range(4)})
    noise = scans.scanner.map({"A": 0.3, "B": 1.0, "C": 1.5}).to_numpy()
    values, bias = simulate(scans, 4000, rng, noise=noise)
    gap = lambda y: between_scanner_sd(y, scans).value ** 2 - noise_floor(y, scans).value ** 2  # noqa: E731
    mean, se = chunk_means(gap, values - bias)
    assert abs(mean) < stats.t.isf(1e-5, 39) * se
    assert se < 0.02


def test_the_share_removed_is_1_for_the_true_bias_and_below_0_for_harm():
    rng, scans = np.random.default_rng(6), everywhere(8, 4, 2)
    values, bias = simulate(scans, 2000, rng)
    none, floor = between_scanner_sd(values, scans), noise_floor(values, scans)
    for part, expected in ((1.0, 1.0), (0.0, 0.0), (0.5, 0.75), (-1.0, -3.0)):
        found = share_removed(none, between_scanner_sd(values - part * bias, scans), floor)
        assert found.value == pytest.approx(expected, abs=0.05)  # five standard errors of 2,000 features and more
    given = share_removed(none, between_scanner_sd(values - bias, scans), 0.6)
    assert given.value == pytest.approx(1, abs=0.05)
    assert np.isnan(share_removed(none, none, 2.0).value)
    with pytest.raises(InputError, match="different scans"):
        share_removed(none, between_scanner_sd(values[:-1], scans[:-1]), floor)


def test_a_floor_that_the_data_do_not_tell_is_refused():
    rng, scans = np.random.default_rng(7), everywhere(3, 2)
    values, _ = simulate(scans, 3, rng)
    with pytest.raises(InputError, match=r"(?s)no repeated scans.*of='residual'"):
        noise_floor(values, scans)
    with pytest.raises(InputError, match="no residual degrees of freedom"):
        noise_floor(values[:2], scans[:2], of="residual")
    with pytest.raises(InputError, match="'repeats' or 'residual'"):
        noise_floor(values, scans, of="noise")


def test_the_intraclass_correlation_is_that_of_the_analysis_of_variance():
    rng = np.random.default_rng(8)
    first = UNBALANCED.groupby("participant_id").cumcount()
    study = UNBALANCED[(UNBALANCED.participant_id != "t1") | (first < 2)].reset_index(drop=True)  # two scans of t1, not four
    values, _ = simulate(study, 9, rng)
    there = (study.participant_id != "r0").to_numpy()
    y, person = values[there], study.participant_id[there]
    means, n = pd.DataFrame(y).groupby(person.to_numpy()).mean(), person.value_counts().sort_index().to_numpy()
    between = (n[:, None] * (means.to_numpy() - y.mean(0)) ** 2).sum(0) / (len(n) - 1)
    within = ((y - means.loc[person].to_numpy()) ** 2).sum(0) / (n.sum() - len(n))
    size = (n.sum() - (n**2).sum() / n.sum()) / (len(n) - 1)
    found = participant_icc(values, study)
    assert found.value == pytest.approx(np.median((between - within) / (between + (size - 1) * within)))
    scans = everywhere(200, 3)
    values, bias = simulate(scans, 50, rng)  # of 200 people: a standard error of about 0.01 of each feature
    assert participant_icc(values - bias, scans).value == pytest.approx(1 / (1 + 0.36), abs=0.03)
    with pytest.raises(InputError, match=r"(?s)needs two people.*'p00'"):
        participant_icc(values[:3], scans[:3])


# Recognition


def test_people_are_identified_by_hand():
    """Two people on two scanners; p1's scan on B looks like p0: A to B finds p0 only, B to A likewise."""
    scans = everywhere(2, 2)
    a, b = np.array([1.0, 0, 0, -1]), np.array([0, 1.0, -1, 0])
    values = 5 + np.stack([a, a, b, 2 * a + 0.1 * b])
    found = identification_rate(values, scans, center=5.0, unit=1.0)
    # A to B: p0 finds its own (correlation 1 against less), p1 too (0.05 against 0). B to A: p0 its own, p1 finds p0.
    assert found.value == 0.75
    assert found.chance == 0.5
    assert np.isnan(found.se)  # without one of two people there is nothing


def test_chance_of_identification_is_that_of_guesses():
    rng, rates = np.random.default_rng(9), []
    for _ in range(300):
        found = identification_rate(rng.normal(size=(len(UNBALANCED), 8)), UNBALANCED, center=0.0, unit=1.0)
        rates.append(found.value)
    assert abs(np.mean(rates) - found.chance) < FAR * np.std(rates) / np.sqrt(300)
    values, _ = simulate(UNBALANCED, 400, rng, scanner=0.1)
    assert identification_rate(values, UNBALANCED, center=3.0, unit=1.0).value == 1


def test_features_are_standardized_by_what_is_given():
    rng, scans = np.random.default_rng(10), everywhere(6, 2)
    values, _ = simulate(scans, 20, rng)
    center, unit = rng.normal(size=20) * 100, np.exp(rng.normal(size=20) * 3)
    found = identification_rate(values * unit + center, scans, center=center, unit=unit)
    assert found.value == identification_rate(values, scans, center=0.0, unit=1.0).value


def test_nobody_to_be_mistaken_for_is_refused():
    scans = make_scans({"p": {"A": 1, "B": 1}, "q": {"C": 1, "D": 1}})
    with pytest.raises(InputError, match=r"(?s)Identification needs two people.*2 people on several scanners, no two"):
        identification_rate(np.eye(4), scans, center=0.0, unit=1.0)


def test_scanners_are_told_apart_if_they_differ():
    rng, scans = np.random.default_rng(11), everywhere(10, 4)
    values, bias = simulate(scans, 60, rng, scanner=2.0)
    assert scanner_accuracy(values, scans, unit=1.0).value == 1
    found = scanner_accuracy(values - bias, scans, unit=1.0)
    assert found.chance == pytest.approx(0.25)
    assert abs(found.value - 0.25) < FAR * found.chance_sd


def test_chance_of_telling_scanners_apart_is_exact():
    """100 studies in which scanners do nothing, of travelers and people scanned once: standard scores of mean 0 and sd 1."""
    rng, scores = np.random.default_rng(12), []
    counts = {f"t{i}": {"A": 2, "B": 1, "C": 1} for i in range(4)} | {f"c{i:02d}": {"AAABC"[i % 5]: 1} for i in range(20)}
    scans = make_scans(counts)
    for seed in range(100):
        values, _ = simulate(scans, 10, rng, scanner=0.0)
        found = scanner_accuracy(values, scans, unit=1.0, folds=3, seed=seed)
        scores.append((found.value - found.chance) / found.chance_sd)
    assert abs(np.mean(scores)) < FAR / 10
    low, high = stats.chi2.ppf([1e-5, 1 - 1e-5], 99) / 99
    assert low < np.var(scores, ddof=1) < high


def test_nobody_is_in_training_and_test():
    """What is each person's own on each scanner would tell the scanner of a second scan, had the first been seen."""
    rng, scans = np.random.default_rng(13), everywhere(8, 3, 2)
    own = effects_of(scans.participant_id + scans.scanner, 50, 5.0, rng)
    found = scanner_accuracy(own + rng.normal(size=own.shape), scans, unit=1.0)
    assert found.value < 0.7
    assert found.value - found.chance < FAR * found.chance_sd


@pytest.mark.filterwarnings("error")
def test_scanners_of_few_people_are_no_reason_to_warn():
    rng, scans = np.random.default_rng(23), pd.concat([everywhere(6, 2), make_scans({"p00": {"C": 1}, "p01": {"C": 1}})])
    assert scanner_accuracy(simulate(scans, 5, rng)[0], scans, unit=1.0).n_scans == 14


def test_deleting_people_leaves_classifiers_as_they_are():
    rng, scans = np.random.default_rng(14), everywhere(9, 3)
    found = scanner_accuracy(simulate(scans, 20, rng, scanner=0.5)[0], scans, unit=1.0)
    right = found.value * 27 - 8 * 3 * found.replicates  # scans of each person that are told right
    np.testing.assert_allclose(right, right.round(), atol=1e-9)
    assert right.sum() == pytest.approx(27 * found.value)


def test_a_scanner_of_one_person_is_left_out_and_a_single_one_refused():
    rng = np.random.default_rng(15)
    scans = pd.concat([everywhere(5, 2), make_scans({"p00": {"Z": 3}})], ignore_index=True)
    values, _ = simulate(scans, 6, rng)
    assert scanner_accuracy(values, scans, unit=1.0).n_scans == 10
    with pytest.raises(InputError, match=r"(?s)too few scanners.*1 with two or more people, of 2"):
        alone = scans.scanner.isin(["A", "Z"]).to_numpy()
        scanner_accuracy(values[alone], scans[alone], unit=1.0)


# Prediction


def test_a_scan_is_compared_with_the_persons_other_scanners():
    scans = make_scans({"p": {"A": 2, "B": 1, "C": 1}, "q": {"A": 1}, "r": {"A": 1, "B": 1}})
    values = np.array([[1.0], [3.0], [5.0], [9.0], [7.0], [4.0], [np.nan]])
    found = difference_from_others(values, scans)
    np.testing.assert_allclose(found[:, 0], [1 - 7, 3 - 7, 5 - 5.5, 9 - 3.5, np.nan, np.nan, np.nan])
    rmse = prediction_rmse(found, scans, unit=2.0)
    assert rmse.value == pytest.approx(np.sqrt(((36 + 16) / 2 + 0.25 + 5.5**2) / 3) / 2)
    assert rmse.n_scans == 4


def test_the_error_of_prediction_is_that_of_noise_if_nothing_else_is_left():
    rng, scans = np.random.default_rng(16), everywhere(10, 4)
    values, bias = simulate(scans, 4000, rng)
    square = lambda y: prediction_rmse(difference_from_others(y, scans), scans).value ** 2  # noqa: E731
    mean, se = chunk_means(square, values - bias)
    assert abs(mean - 0.36 * (1 + 1 / 3)) < stats.t.isf(1e-5, 39) * se


@pytest.mark.parametrize("df", [np.inf, 4.0])
def test_intervals_cover_as_often_as_they_say(df):
    rng, scans = np.random.default_rng(17), everywhere(20, 4)
    shape = (len(scans), 500)
    mean, sd = rng.normal(size=shape), rng.uniform(0.5, 2, shape)
    observed = mean + sd * (rng.standard_t(df, shape) if np.isfinite(df) else rng.standard_normal(shape))
    for level in (0.9, 0.5):
        found = interval_coverage(observed, mean, sd, scans, df=df, level=level)
        assert abs(found.value - level) < FAR * np.sqrt(level * (1 - level) / observed.size)
    wrong = interval_coverage(observed, mean, sd / 2, scans, df=df)
    assert wrong.value == pytest.approx(stats.t.cdf(stats.t.ppf(0.95, df) / 2, df) * 2 - 1, abs=0.02)
    with pytest.raises(InputError, match="level"):
        interval_coverage(observed, mean, sd, scans, level=90)


# Effects


def test_effects_are_those_of_weighted_least_squares(study):
    values, scans = study
    raw = values + 0.1 * values**2
    found = effect_preservation(values, scans, ["age", "diagnosis"], raw=raw)
    assert list(found) == ["age", "diagnosis: MDD"]
    x = np.column_stack([scans.age, scans.diagnosis == "MDD"]).astype(float)
    root = np.sqrt(1 / scans.groupby("participant_id").scanner.transform("size").to_numpy())[:, None]
    of_all = np.linalg.lstsq(root * np.column_stack([np.ones(len(x)), x]), root * values)[0][-2:]
    within = np.linalg.lstsq(root * np.column_stack([pd.get_dummies(scans.scanner), x]), root * raw)[0][-2:]
    for a, b, (correlation, slope, rms, rms_reference, rms_difference) in zip(of_all, within, found.values(), strict=True):
        assert correlation.value == pytest.approx(np.corrcoef(a, b)[0, 1])
        assert slope.value == pytest.approx(np.polyfit(b, a, 1)[0])
        for measure, effect in ((rms, a), (rms_reference, b), (rms_difference, a - b)):
            assert measure.value == pytest.approx(np.sqrt(np.mean(effect**2)))


def test_no_bias_of_a_scanner_touches_the_reference(study):
    values, scans = study
    bias = effects_of(scans.scanner, N_FEATURES, 5.0, np.random.default_rng(18))
    one, other = (effect_preservation(values, scans, ["age"], raw=raw)["age"] for raw in (values, values + bias))
    assert one.rms_reference.value == pytest.approx(other.rms_reference.value)
    halved = effect_preservation(values / 2, scans, ["age"], raw=values)["age"]
    assert halved.slope.value == pytest.approx(one.slope.value / 2)
    assert halved.correlation.value == pytest.approx(one.correlation.value)


def test_effects_are_compared_with_the_truth_where_it_is_known():
    rng = np.random.default_rng(19)
    scans = make_scans({f"p{i:03d}": {SCANNERS[i % 4]: 1} for i in range(400)})
    scans["age"], scans["sex"] = rng.uniform(20, 60, 400), rng.permutation(["F", "M"] * 200)
    truth = {"age": rng.normal(0, 0.1, 300), "sex: M": rng.normal(0, 1, 300)}
    values, bias = simulate(scans, 300, rng, person=0.0)
    values += np.outer(scans.age, truth["age"]) + np.outer(scans.sex == "M", truth["sex: M"])
    found = effect_preservation(values - bias, scans, ["age", "sex"], raw=values, truth=truth)
    for name, of_sex in (("age", False), ("sex: M", True)):
        error = 0.6 / np.sqrt(400) / (0.5 if of_sex else np.std(scans.age))  # of least squares, the two being independent
        assert found[name].rms_difference.value == pytest.approx(error, rel=0.2)
        assert found[name].slope.value == pytest.approx(1, abs=FAR * error / np.std(truth[name]) / np.sqrt(300))
        assert found[name].rms_reference.value == pytest.approx(np.sqrt(np.mean(truth[name] ** 2)))
    shrunk = effect_preservation(0.7 * (values - bias), scans, ["age"], raw=values, truth=truth)["age"]
    assert shrunk.slope.value == pytest.approx(0.7, abs=0.05)


def test_scans_without_a_covariate_are_left_out(study):
    values, scans = study
    known = scans.assign(age=scans.age.where(scans.index > 4))
    found = effect_preservation(values, known, ["age"], raw=values)["age"].rms
    assert found.n_scans == len(scans) - 5
    assert found.value == pytest.approx(effect_preservation(values[5:], scans[5:], ["age"], raw=values[5:])["age"].rms.value)


def test_effects_that_scanners_may_make_are_refused(study):
    values, scans = study
    confounded = scans.assign(diagnosis=np.where(scans.scanner == "A", "MDD", "HC"), twice=2 * scans.age)
    with pytest.raises(InputError, match=r"(?s)collinear with scanners.*diagnosis: MDD"):
        effect_preservation(values, confounded, ["diagnosis"], raw=values)
    with pytest.raises(InputError, match=r"(?s)collinear with one another.*age and twice"):
        effect_preservation(values, confounded, ["age", "twice"], raw=values)
    with pytest.raises(InputError, match=r"(?s)lacks covariates.*'iq'"):
        effect_preservation(values, scans, ["iq"], raw=values)


# Truth


def biases(values, scanners=SCANNERS) -> pd.DataFrame:
    return pd.DataFrame(values, index=list(scanners), columns=[f"f{i}" for i in range(np.shape(values)[1])])


def test_errors_of_biases_count_from_the_mean_of_the_scanners():
    rng = np.random.default_rng(20)
    truth, error = biases(rng.normal(size=(4, 200))), rng.normal(size=(4, 200))
    centered = error - error.mean(0)
    sd = biases(np.full((4, 200), np.sqrt(3 / 4)))
    found = bias_error(truth + error + 7, truth, sd=sd, oracle=truth + error / 2)
    assert found.rmse.value == pytest.approx(np.sqrt((centered**2).mean()))
    assert found.ratio.value == pytest.approx(2)
    assert found.ratio.se == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(found.by_scanner, np.sqrt((centered**2).mean(1)))
    assert abs(found.coverage.value - 0.9) < FAR * found.coverage.se
    for k in (0, 17):
        some = np.delete(np.arange(200), k)
        assert found.rmse.replicates[f"f{k}"] == pytest.approx(np.sqrt((centered[:, some] ** 2).mean()))
    assert bias_error(truth - 3, truth).rmse.value == pytest.approx(0, abs=1e-12)


def test_scanners_that_a_method_cannot_do_are_left_out_for_the_oracle_too():
    rng = np.random.default_rng(21)
    truth, error = biases(rng.normal(size=(4, 30))), rng.normal(size=(4, 30))
    bias = truth + error
    bias.loc["C"] = np.nan
    found = bias_error(bias, truth, sd=truth.abs(), oracle=truth + error)
    left = np.delete(error, 2, axis=0)
    assert found.rmse.value == pytest.approx(np.sqrt(((left - left.mean(0)) ** 2).mean()))
    assert found.ratio.value == pytest.approx(1)
    assert found.coverage is None
    assert found.by_scanner.isna().tolist() == [False, False, True, False]
    assert found.rmse.n_scans == 3
    assert bias_error(bias.dropna(), truth).rmse.value == found.rmse.value
    with pytest.raises(InputError, match=r"(?s)compared with the truth.*not in the truth: 'E'"):
        bias_error(bias.rename(index={"A": "E"}), truth)
    with pytest.raises(InputError, match="biases of 1 scanners"):
        bias_error(bias[:1], truth)


# The 2019 study


@pytest.fixture(scope="module")
def srpbs():
    return simulate_srpbs(45, seed=3, dtype="float64")


def test_effect_magnitudes_are_those_of_the_2019_regression(srpbs):
    effects = yamashita2019(load_dataset(srpbs.scans, srpbs.features), ridge=8.0).effects
    size = {name: table.std(axis=1).mean() for name, table in effects.items()}
    found = effect_magnitudes(srpbs.features, srpbs.scans)
    assert found.measurement.value == pytest.approx(size["measurement"])
    assert found.participant_ratio.value == pytest.approx(size["participant"] / size["measurement"])
    assert found.disorder_ratio.value == pytest.approx(size["disorder"] / size["measurement"])
    assert len(found.measurement.replicates) == 814
    healthy = (srpbs.scans.diagnosis == "HC").to_numpy()
    assert effect_magnitudes(srpbs.features[healthy], srpbs.scans[healthy]).disorder_ratio is None


def test_an_oracle_lowers_measurement_but_not_to_0(srpbs):
    bias = srpbs.truth.effects["measurement"].loc[srpbs.scans.scanner].to_numpy()
    none, oracle = (effect_magnitudes(values, srpbs.scans) for values in (srpbs.features, srpbs.features - bias))
    change = combine(lambda a, b: a / b - 1, oracle.measurement, none.measurement)
    assert -0.9 < change.value < -0.3
    assert change.value < -FAR * change.se
    assert difference(oracle.participant_ratio, none.participant_ratio).value > 0
