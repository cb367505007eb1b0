"""Protocol factors: their columns and checks, what tells them apart, and that measurement bias stays one thing."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from posteriors import make_posterior
from scipy import stats
from studies import covariance, random_study, with_protocol
from test_design import make_scans
from typer.testing import CliRunner

from bayesharm import InputError, ModelError, fit, harmonize, load_dataset, load_posterior, summarize, variance_components
from bayesharm.baselines import univariate_effects, yamashita2019
from bayesharm.cli.app import app
from bayesharm.conditional.identifiability import identify
from bayesharm.datasets.simulate import PROTOCOL_RMS, simulate_srpbs
from bayesharm.model.catalog import load_model
from bayesharm.model.design import build_design
from bayesharm.model.protocol_factors import count_contrasts, name_factors
from bayesharm.model.spec import Family
from bayesharm.model.spec_rules import spec_from_dict

FACTORS = ("phase_encoding", "manufacturer", "coil", "scanner_model")


def small(**columns: str) -> pd.DataFrame:
    """Travelers between four scanners, and columns with a letter for each of these."""
    scans = make_scans("t1:A:HC t1:B:HC t2:B:HC t2:C:HC t3:C:HC t3:D:HC p1:A:HC p2:B:HC p3:C:MDD q1:A:MDD")
    return scans.assign(**{
        name: scans.scanner.map(dict(zip("ABCD", letters, strict=True))) for name, letters in columns.items()
    })  # fmt: skip


def design_of(scans: pd.DataFrame, *columns: str):
    return build_design(scans, name_factors(load_model("protocol"), columns, scans))


def refused(error: type[Exception], message: str, scans: pd.DataFrame, *columns: str) -> None:
    with pytest.raises(error, match=f"(?s){message}") as caught:
        if columns:
            design_of(scans, *columns)
        else:
            build_design(scans, load_model("protocol"))
    assert caught.value.got and caught.value.expected and caught.value.do


@pytest.fixture(scope="module")
def simulated():
    return simulate_srpbs(1, protocol=PROTOCOL_RMS)


def test_the_srpbs_study(simulated):
    design = build_design(simulated.scans, load_model("protocol"))
    sampling = ["sampling_HC", "sampling_MDD", "sampling_SCZ"]
    assert design.scale_labels == ("noise", "participant", *FACTORS, "scanner", *sampling, "disorder")
    levels = {group.name: (group.dim, len(group.levels)) for group in design.effects}
    assert levels["phase_encoding"] == ("phase_encoding", 2) and levels["scanner_model"] == ("scanner_model", 8)
    assert levels["scanner"] == levels["measurement"] == ("scanner", 12)
    own = np.isin(design.families, [*FACTORS, "scanner"])
    assert not own[design.n_dense :].any()  # dense, all of them
    assert design.of_scanner.shape == (12, 5)
    named = [[design.column_labels[k] for k in row] for row in design.of_scanner]
    assert named[design.scanners.index("UTO")] == [
        "phase_encoding:j", "manufacturer:GE", "coil:24ch", "scanner_model:MR750W", "scanner:UTO"]  # fmt: skip


def test_measurement_is_reported_as_the_sum_of_its_parts(simulated):
    """Minus the mean over scanners; a factor minus the mean over its levels."""
    design = build_design(simulated.scans, load_model("protocol"))
    effects = np.random.default_rng(0).normal(size=len(design.columns))
    value = dict(zip(design.column_labels, effects, strict=True))
    protocol = simulated.scans.drop_duplicates("scanner").set_index("scanner").loc[list(design.scanners)]
    total = np.array([
        value[f"phase_encoding:{row.PhaseEncodingDirection}"] + value[f"manufacturer:{row.Manufacturer}"]
        + value[f"coil:{row.ReceiveCoilName}"] + value[f"scanner_model:{row.ManufacturersModelName}"]
        + value[f"scanner:{scanner}"] for scanner, row in protocol.iterrows()
    ])  # fmt: skip
    groups = {group.name: group for group in design.effects}
    np.testing.assert_allclose(groups["measurement"].contrasts @ effects, total - total.mean(), atol=1e-12)
    coils = np.array([value[f"coil:{level}"] for level in groups["coil"].levels])
    np.testing.assert_allclose(groups["coil"].contrasts @ effects, coils - coils.mean(), atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_contraction_of_sums_is_that_of_conditioning_the_joint_normal(seed):
    scans = random_study(seed)
    design = build_design(scans, with_protocol(scans))
    log_scales = np.log(design.scale_medians) + np.random.default_rng(seed).normal(0, 0.5, len(design.scales))
    scales = dict(zip(design.scale_labels, np.exp(log_scales), strict=True))
    _, dense = covariance(scans, design.spec, scales, dict.fromkeys(design.scanners, 1.0))
    found = identify(design, log_scales)

    names = np.array(design.scanners)
    of_scan = (scans.scanner.to_numpy()[:, None] == names).astype(float)
    protocol = scans.drop_duplicates("scanner").set_index("scanner").loc[names]
    prior = scales["scanner"] ** 2 * np.eye(len(names))
    for factor in ("vendor", "field"):
        labels = protocol[factor].to_numpy()
        prior += scales[factor] ** 2 * (labels[:, None] == labels)
    posterior = prior - prior @ of_scan.T @ np.linalg.solve(dense, of_scan @ prior)

    def contraction(rows: np.ndarray) -> np.ndarray:
        return 1 - np.diag(rows @ posterior @ rows.T) / np.diag(rows @ prior @ rows.T)

    centered = np.eye(len(names)) - 1 / len(names)
    total = found.contrasts.set_index(["group", "level"]).loc["measurement"].loc[list(names)]
    np.testing.assert_allclose(total.contraction, contraction(centered), atol=1e-10)
    assert list(total.n_scans) == [int(n) for n in of_scan.sum(0)]
    place = {name: k for k, name in enumerate(names)}
    unit = np.eye(len(names))
    differences = np.array([unit[place[a]] - unit[place[b]] for a, b in found.pairs[["first", "second"]].to_numpy()])
    np.testing.assert_allclose(found.pairs.contraction, contraction(differences), atol=1e-10)


def test_what_nothing_but_priors_tells_apart_is_counted(simulated):
    """In the published study every coil and every manufacturer is a set of scanner models; phase encoding is not."""
    found = identify(build_design(simulated.scans, load_model("protocol")))
    assert found.factors.contrasts.to_dict() == {"phase_encoding": 1, "manufacturer": 2, "coil": 3, "scanner_model": 7}
    assert found.factors.own.to_dict() == {"phase_encoding": 1, "manufacturer": 0, "coil": 0, "scanner_model": 3}
    assert found.factors.mimicked_by["phase_encoding"] == [] and "scanner_model" in found.factors.mimicked_by["coil"]
    first, *others = found.sentences()
    assert "These 12 scanners must separate the factors" in first
    assert any(line.startswith("coil: 3 of 3 contrasts can also be differences between levels of") for line in others)
    assert not any(line.startswith("phase_encoding: ") and "contrasts" in line for line in others)


def test_contrasts_that_only_two_factors_together_mimic_are_found():
    """Four scanners, a 2 × 2 design and its interaction with the constant: none alone is the third."""
    two = np.eye(2)
    a, b = two[[0, 0, 1, 1, 1]], two[[0, 1, 0, 1, 1]]
    both = np.eye(3)[[0, 1, 1, 2, 2]]  # a + b
    found = count_contrasts({"a": a, "b": b, "both": both})
    assert found.own.to_dict() == {"a": 0, "b": 0, "both": 1}
    assert found.mimicked_by["a"] == ["b", "both"]
    assert count_contrasts({"a": a, "b": b}).own.to_dict() == {"a": 1, "b": 1}


def test_factors_that_are_absent_are_left_out_with_a_note():
    design = build_design(small(Manufacturer="GGSS", PhaseEncodingDirection="jjjk"), load_model("protocol"))
    assert "coil" not in design.scale_labels and design.scale_labels[2:5] == ("phase_encoding", "manufacturer", "scanner")
    assert [note for note in design.notes if "ReceiveCoilName" in note and "coil" in note]


def test_no_protocol_column_at_all_is_refused():
    refused(ModelError, "none of its own.*'Manufacturer'.*--protocol", small(vendor="GGSS"))


@pytest.mark.parametrize(("columns", "message"), [
    ({"vendor": "GGGG", "coil": "1122"}, r"'vendor' is the same for every scanner.*--protocol coil"),
    ({"vendor": "GGSS", "coil": "2211"}, r"'vendor' and 'coil' divide the scanners into the same groups.*G, 2"),
    ({"vendor": "GHST", "coil": "1122"}, r"'vendor' is different for every scanner.*4 levels for 4 scanners"),
    ({"vendor": "GHST"}, r"different for every scanner.*traveling_and_cohort"),
])  # fmt: skip
def test_factors_that_say_nothing_of_their_own_are_refused(columns, message):
    refused(InputError, message, small(**columns), *columns)


def test_factors_that_are_incomplete_or_differ_within_a_scanner_are_refused():
    scans = small(vendor="GGSS")
    scans.loc[0, "vendor"] = None
    refused(InputError, "'vendor' has missing values.*1 scans.*'A'", scans, "vendor")
    scans.loc[0, "vendor"] = "S"
    refused(InputError, "'vendor' differs within a scanner.*on 'A'", scans, "vendor")


@pytest.mark.parametrize(("columns", "message"), [
    (["vendr"], "no protocol column 'vendr'.*'vendor'"),
    (["site"], "'site' cannot be a protocol factor"),
    (["vendor", "vendor"], "'vendor' cannot be a protocol factor.*each once"),
    (["a/b"], "cannot have the name 'a/b'.*rename the column"),
    (["noise"], "cannot have the name 'noise'.*rename the column"),
    (["sampling"], "cannot have the name 'sampling'.*rename the column"),
])  # fmt: skip
def test_names_that_are_no_factors_are_refused(columns, message):
    refused(InputError, message, small(vendor="GGSS", **{"a/b": "GGSS", "noise": "GGSS", "sampling": "GGSS"}), *columns)


def test_other_models_have_no_factors():
    with pytest.raises(ModelError, match=r"'traveling' has no protocol factors[\s\S]*--model protocol"):
        name_factors(load_model("traveling"), ["vendor"], small(vendor="GGSS"))


def test_named_factors_take_the_place_of_those_of_the_model():
    spec = name_factors(load_model("protocol"), ["vendor", "coil"], small(vendor="GGSS", coil="1211"))
    assert [family.name for family in spec.families] == ["participant", "vendor", "coil", "scanner", "sampling", "disorder"]
    assert spec.components == ("vendor", "coil", "scanner") and spec_from_dict(spec.to_dict()) == spec


PART = {"component_of": "measurement"}


@pytest.mark.parametrize(("families", "message"), [
    ([Family("vendor", "vendor", 0.1, nested_in="site", **PART), Family("scanner", "scanner", 0.1, **PART)],
     "invalid 'nested_in' of family 'vendor'.*stand alone"),
    ([Family("vendor", "vendor", 0.1, slope="age", **PART), Family("scanner", "scanner", 0.1, **PART)],
     "invalid 'slope' of family 'vendor'.*no slope in a family with component_of"),
    ([Family("vendor", "vendor", 0.1, **PART)], "invalid 'families'.*one component by scanner"),
    ([Family("measurement", "scanner", 0.1, **PART)], "invalid 'removed_effect'.*a name that no family has"),
    ([Family("who", "participant", 0.1, **PART)], "invalid 'component_of' of family 'who'"),
    ([Family("a/b", "vendor", 0.1, **PART)], "invalid 'name'.*without slash"),
    ([Family("sd", "vendor", 0.1, **PART)], "invalid 'name' of family 'sd'"),
    ([Family("population", "vendor", 0.1, **PART)], "invalid 'name' of family 'population'.*for a family by a column"),
])  # fmt: skip
def test_a_mistake_in_a_model_of_parts_is_named(families, message):
    with pytest.raises(ModelError, match=f"(?s){message}"):
        spec_from_dict(replace(load_model("protocol"), families=tuple(families)).to_dict())


def test_the_command_takes_names_of_factors(tmp_path):
    scans = small(vendor="GGSS", coil="1211")
    scans.assign(f0=np.arange(len(scans)) % 3.0, f1=np.arange(len(scans)) % 4.0).to_csv(tmp_path / "scans.csv", index=False)
    command = ["fit", str(tmp_path / "scans.csv"), "--features", "f?", "--out", str(tmp_path / "run"), "--quiet"]
    for more, message in (
        (["--model", "protocol", "--protocol", "vendor, field"], "no protocol column 'field'"),
        (["--model", "traveling", "--protocol", "vendor"], "'traveling' has no protocol factors"),
        (["--model", "protocol"], "none of its own"),
    ):
        result = CliRunner().invoke(app, command + more)
        assert result.exit_code == 2 and message in result.output, result.output
    assert not (tmp_path / "run").exists()


# The 2019 study's way


def test_one_factor_at_a_time_is_the_same_regression_with_levels_for_scanners():
    study = simulate_srpbs(3, seed=2, protocol=PROTOCOL_RMS)
    found = univariate_effects(load_dataset(study.scans, study.features))
    assert list(found) == [*FACTORS]
    renamed = study.scans.assign(scanner=study.scans.ReceiveCoilName)  # everybody travels from coil to coil still
    expected = yamashita2019(load_dataset(renamed, study.features))
    np.testing.assert_allclose(found["coil"].effects["coil"], expected.effects["measurement"], atol=1e-10)
    assert found["coil"].contributions["coil"] == pytest.approx(expected.contributions["measurement"], rel=1e-8)
    named = univariate_effects(load_dataset(study.scans, study.features), ["ReceiveCoilName"])
    assert named["ReceiveCoilName"].contributions["ReceiveCoilName"] == pytest.approx(found["coil"].contributions["coil"])
    with pytest.raises(ModelError, match="none of its own"):
        univariate_effects(load_dataset(study.scans.drop(columns=protocol_columns(study.scans)), study.features))


def protocol_columns(scans: pd.DataFrame) -> list[str]:
    return [family.by for family in load_model("protocol").factors if family.by in scans]


# Ranking

N_DRAWS, N_RANKED_FEATURES = 4000, 100


@pytest.fixture
def ranked():
    """A posterior in which parts are of nearly the same size, and two of them go together in each feature."""
    rng = np.random.default_rng(3)
    posterior = make_posterior("protocol", tuple(f"f{k}" for k in range(N_RANKED_FEATURES)))
    families = [str(name) for name in posterior.tree["scales"]["family"].values]
    size = np.array([{"coil": 1.0, "manufacturer": 1.02, "scanner": 1.01}.get(name, 0.5) for name in families])
    common = np.array([{"coil": 0.3, "manufacturer": -0.3}.get(name, 0.0) for name in families])
    draws = size[:, None] * rng.uniform(0.5, 1.5, N_RANKED_FEATURES)
    draws = draws + common[:, None] * rng.normal(size=(N_DRAWS, 1, N_RANKED_FEATURES))
    draws += 0.1 * rng.normal(size=draws.shape)
    away = draws - draws.mean(0)
    statistics = np.concatenate([draws.mean(0)[None], draws.std(0)[None], np.quantile(draws, [0.05, 0.5, 0.95], axis=0)])
    dims, pair = ("statistic", "family", "feature"), ("family", "other", "feature")
    n = len(families)
    posterior.tree["finite_population"] = xr.DataTree(xr.Dataset({
        "finite_sd": (dims, 2 * statistics),  # every feature has an sd of 2 over the scans
        "contribution": (dims, statistics / 10),
        "finite_covariance": (pair, 4 * np.einsum("dif,djf->ijf", away, away) / (N_DRAWS - 1)),
        "covariance_with_log_scale": (("size", "family", "feature"), np.zeros((3, n, N_RANKED_FEATURES))),
        "family": families,
    }))  # fmt: skip
    return posterior, families, 2 * draws


def test_ranking_is_that_of_draws_of_all_parts_together(ranked):
    posterior, families, draws = ranked
    found = variance_components(posterior).ranking
    assert set(found.index) == {*FACTORS, "scanner"} and found.rms.is_monotonic_decreasing
    square = (draws[:, [families.index(name) for name in found.index]] ** 2).mean(2)
    np.testing.assert_allclose(found.rms, np.sqrt(square.mean(0)), rtol=1e-3)
    rank = np.argsort(np.argsort(-square, axis=1), axis=1)
    expected = np.stack([(rank == k).mean(0) for k in range(5)], axis=1)
    error = 4.3 * np.sqrt(0.25 / N_DRAWS + 0.25 / 20_000)  # of one probability in ten thousand
    np.testing.assert_allclose(found.filter(like="rank_"), expected, atol=error)
    limits = np.quantile(np.sqrt(square), [0.05, 0.95], axis=0).T
    np.testing.assert_allclose(found[["rms_q05", "rms_q95"]], limits, atol=0.15 * np.sqrt(square).std(0).max())


def test_what_typical_scales_have_in_common_counts_in_the_ranking(ranked):
    """Of two factors that could be each other, either may be the larger, although single features know their sizes."""
    posterior, families, _ = ranked
    posterior.tree["finite_population"]["covariance_with_log_scale"][1] = 0.05
    alone = variance_components(posterior)
    eta = posterior.tree["hyper"]["eta"].values
    one, other = families.index("coil"), families.index("manufacturer")
    eta[..., one] = 2 * eta[..., other].mean() - eta[..., other]
    together = variance_components(posterior)
    for pair in (("coil", "scanner_model"), ("manufacturer", "phase_encoding")):
        assert together.larger.loc[pair] == pytest.approx(alone.larger.loc[pair], abs=0.02)
    widths = [-stats.norm.ppf(table.larger.loc["coil", "manufacturer"]) for table in (alone, together)]
    assert 0 < widths[1] < widths[0]


def test_a_model_without_factors_has_no_ranking(ranked):
    posterior = make_posterior("traveling")
    sources = ranked[0].tree["finite_population"].to_dataset().isel(family=slice(3), other=slice(3), feature=slice(4))
    posterior.tree["finite_population"] = xr.DataTree(sources.assign_coords(family=posterior.scales["family"].values))
    found = variance_components(posterior)
    assert found.ranking is None and "Components of" not in str(found)


# A fit from beginning to end

SIZES = {"phase_encoding": 0.09, "coil": 0.03, "scanner": 0.015}
COLUMNS = {"phase_encoding": "PhaseEncodingDirection", "coil": "ReceiveCoilName", "scanner": "scanner"}


@pytest.fixture(scope="module")
def study():
    """Travelers only, and no column of diagnoses."""
    study = simulate_srpbs(40, 4, protocol=SIZES, sizes={"noise": 0.1}, dtype="float64")
    rows = study.scans.participant_id.str.startswith("T").to_numpy()
    return replace(study, scans=study.scans[rows].drop(columns="diagnosis"), features=study.features[rows])


@pytest.fixture(scope="module")
def dataset(study):
    return load_dataset(study.scans, study.features)


@pytest.fixture(scope="module")
def posterior(dataset):
    return fit(dataset, "protocol", protocol=["PhaseEncodingDirection", "ReceiveCoilName"], feature_scaling="common", seed=1)


@pytest.mark.slow
def test_factors_come_back_in_their_order_and_with_their_sizes(study, posterior):
    """Sizes differ by more than chance in 40 features, and no coil is a phase-encoding direction."""
    assert posterior.run["n_converged"] >= 39
    ranking = variance_components(posterior).ranking
    assert list(ranking.index) == [COLUMNS[name] for name in SIZES]
    places = ranking.filter(like="rank_").to_numpy()
    np.testing.assert_allclose(places.sum(0), 1)
    np.testing.assert_allclose(places.sum(1), 1)
    assert np.diag(places).min() > 0.9
    for name, effects in study.truth.factors.items():
        row, true = ranking.loc[COLUMNS[name]], np.sqrt((effects.std() ** 2).mean())
        sd = (row.rms_q95 - row.rms_q05) / 2 / 1.645
        assert abs(row.rms - true) < 4 * sd, name


@pytest.mark.slow
def test_measurement_bias_is_that_of_the_truth_and_is_removed_as_a_whole(study, dataset, posterior):
    effect = posterior.effect("measurement")
    true = study.truth.effects["measurement"]
    true = (true - true.mean()).loc[effect["scanner"].values]
    z = (effect["mean"].values - true) / effect["sd"].values
    assert 0.6 < np.sqrt((z**2).to_numpy().mean()) < 1.4  # 11 contrasts of 40 features: sd 0.05 if they were independent
    with pytest.warns(UserWarning) if posterior.run["n_converged"] < 40 else nullcontext():
        found = harmonize(posterior, dataset)
    assert found.removed == "measurement"
    rows = [list(effect["scanner"].values).index(scanner) for scanner in study.scans.scanner]
    np.testing.assert_allclose(study.features - found.mean, effect["mean"].values[rows], atol=1e-12)
    with pytest.raises(InputError, match="'scanner' effects cannot be removed"):
        harmonize(posterior, dataset, remove="scanner")


@pytest.mark.slow
def test_the_run_says_what_its_parts_are_and_what_tells_them_apart(posterior, tmp_path):
    posterior.write(tmp_path / "run")
    again = load_posterior(tmp_path / "run")
    assert again.spec.components == ("PhaseEncodingDirection", "ReceiveCoilName", "scanner")
    assert any("These 12 scanners must separate the factors" in note for note in again.run["notes"])
    assert set(again.tree["effects"].children) > {*again.spec.components, "measurement"}
    assert again.effect("ReceiveCoilName")["mean"].dims == ("ReceiveCoilName", "feature")
    summary = summarize(again)
    assert summary.about["components"] == again.spec.components and "component of measurement bias" in " ".join(
        str(summary).split()
    )
    text = " ".join(str(variance_components(again)).split())
    assert "Components of measurement bias; PhaseEncodingDirection is the largest with probability > 0.999" in text
    np.testing.assert_allclose(summary.scanners.loc[again.scanners].from_data, again.effect("measurement")["contraction"])


@pytest.mark.slow
def test_measurement_bias_is_nearly_that_of_the_model_without_factors(dataset, posterior):
    """They differ as two posterior means do of which one knows more: by the difference of the variances."""
    plain = fit(dataset, "traveling_and_cohort", feature_scaling="common", seed=1).effect("measurement")
    found = posterior.effect("measurement")
    mean, sd, plain_mean, plain_sd = (effect[name].values for effect in (found, plain) for name in ("mean", "sd"))
    assert np.corrcoef(mean.ravel(), plain_mean.ravel())[0, 1] > 0.97
    ratio = ((mean - plain_mean) ** 2).mean() / (plain_sd**2 - sd**2).mean()
    assert 0.6 < ratio < 1.4  # 440 squares, of which at most ten a feature are independent: sd 0.07
