"""Names with slashes, colons and underscores change no number, and different names never share a label."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from studies import random_study, with_protocol

import bayesharm
from bayesharm.analysis.population_structure import ALL, PopulationTest
from bayesharm.data.dataset import Dataset, load_dataset
from bayesharm.errors import ModelError
from bayesharm.model.catalog import load_model
from bayesharm.model.configure import configure_model
from bayesharm.model.design import build_design
from bayesharm.model.labels import (
    Column,
    Population,
    Scale,
    column_labels,
    covariate_labels,
    population_labels,
    scale_labels,
)
from bayesharm.model.protocol_factors import name_factors
from bayesharm.reporting.html import render_report
from bayesharm.reporting.plots import RunView, draw_plot, possible_plots
from bayesharm.reporting.sections.contents import SECTIONS
from bayesharm.reporting.sections.features import describe_populations
from bayesharm.results.posterior import Posterior, load_posterior

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # about removed sampling bias

N_FEATURES = 12
COVARIATES = ("age_y", "gender")
# Plain names and, in the same order of the alphabet, names with the characters that labels are made of. `MDD/ANX` ends like
# the label of a population with the diagnosis `ANX`, which has no sampling bias here.
ODD = {
    "scanner": {"A": "a/b", "B": "b:HC", "C": "x:y_z"},
    "site": {"K": "k/l", "L": "l:HC/ANX", "M": "m_HC"},
    "diagnosis": {"ANX": "ANX", "HC": "HC", "MDD": "MDD/ANX", "SCZ": "SCZ_HC:x"},
    "gender": {"f": "f/1_a", "m": "m/1_a"},
}
# Two populations, `k/MDD` with `ANX` and `k` with `MDD/ANX`, that plain labels would call the same.
COLLIDING = ODD | {"site": {"K": "k", "L": "k/MDD", "M": "m"}}


class Case(NamedTuple):
    """A study with some names, and its fit."""

    dataset: Dataset
    posterior: Posterior
    names: dict[str, dict[str, str]]

    def plain(self, text: str) -> str:
        """A text with plain names in place of those of this study."""
        pairs = {name: plain for column in self.names.values() for plain, name in column.items()}
        pairs |= {odd_feature(k): plain_feature(k) for k in range(N_FEATURES)} | {"R/": "R"}  # regions, of `edges_of`
        for name in sorted(pairs, key=len, reverse=True):
            text = text.replace(name, pairs[name])
        return text


def plain_feature(k: int) -> str:
    return f"edge{k:02d}"


def odd_feature(k: int) -> str:
    return f"L_{k:02d}/x:y->R_{k:02d}"


def make_scans() -> pd.DataFrame:
    """Three travelers on three scanners; HC, MDD and ANX at two or three sites; SCZ at one."""
    rows = [(f"t{k}", scanner, "HC") for k in range(3) for scanner in "ABC" for _ in range(2)]
    cohort = {"A": "HC MDD", "B": "HC MDD ANX", "C": "HC ANX SCZ"}
    rows += [
        (f"p{scanner}{diagnosis}{k}", scanner, diagnosis)
        for scanner, diagnoses in cohort.items()
        for diagnosis in diagnoses.split()
        for k in range(4)
    ]
    scans = pd.DataFrame(rows, columns=["participant_id", "scanner", "diagnosis"])
    scans.insert(0, "scan_id", [f"scan{k:02d}" for k in range(len(scans))])
    scans["site"] = scans.scanner.map({"A": "K", "B": "L", "C": "M"})
    rng = np.random.default_rng(3)
    scans = scans.assign(age_y=rng.integers(20, 60, len(scans)), gender=rng.permutation(["f", "m"] * 30)[: len(scans)])
    people = scans.groupby("participant_id")[list(COVARIATES)]
    return scans.assign(**people.transform("first"))


def make_features(scans: pd.DataFrame) -> np.ndarray:
    rng = np.random.default_rng(5)
    values = rng.normal(0, 0.5, (len(scans), N_FEATURES))
    for column in (scans.participant_id, scans.scanner, scans.site + scans.diagnosis):
        codes, labels = pd.factorize(column)
        values += rng.normal(0, 0.5, (len(labels), N_FEATURES))[codes]
    return values


def make_case(names: dict[str, dict[str, str]], anx_at_one_site: bool = True, **settings: Any) -> Case:
    scans = make_scans()
    if anx_at_one_site:
        scans = scans[(scans.diagnosis != "ANX") | (scans.scanner == "B")].reset_index(drop=True)
    features = make_features(scans)
    for column, new in names.items():
        scans[column] = scans[column].map(new)
    feature_names = [(odd_feature if names else plain_feature)(k) for k in range(N_FEATURES)]
    dataset = load_dataset(scans, pd.DataFrame(features, scans.scan_id, feature_names))
    options = {"seed": 1, "feature_scaling": "common", "covariates": COVARIATES} | settings
    return Case(dataset, bayesharm.fit(dataset, "traveling_and_cohort", **options), names)


@pytest.fixture(scope="module")
def cases() -> tuple[Case, Case]:
    return make_case({}), make_case(ODD)


@pytest.fixture(scope="module")
def tests_of_populations(cases) -> tuple[PopulationTest, PopulationTest]:
    first, second = (bayesharm.test_populations(case.posterior, case.dataset) for case in cases)
    assert isinstance(first, PopulationTest) and isinstance(second, PopulationTest)
    return first, second


def assert_same_numbers(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """Tables that differ in labels only; their rows and columns come in the same order."""
    for left, right in zip((one[name] for name in one), (other[name] for name in other), strict=True):
        if left.dtype.kind in "fiub":
            np.testing.assert_array_equal(left.to_numpy(), right.to_numpy())


def assert_same_trees(one: Posterior, other: Posterior) -> None:
    assert {node.path for node in one.tree.subtree} == {node.path for node in other.tree.subtree}
    for node in one.tree.subtree:
        for name, array in node.data_vars.items():
            if array.dtype.kind in "fiub":
                np.testing.assert_array_equal(array.values, other.tree[node.path][name].values, err_msg=str(name))


def test_a_fit_is_the_same_and_its_tree_holds_the_parts_of_names(cases):
    plain, odd = (case.posterior for case in cases)
    assert_same_trees(plain, odd)
    scales = odd.tree["scales"].to_dataset()
    assert list(scales["family"].values)[3:5] == ["sampling_HC", "sampling_MDD/ANX"]
    assert list(scales["term"].values)[3:5] == ["sampling", "sampling"] and scales["term"].values[0] == "noise"
    assert list(scales["group"].values) == ["", "", "", "HC", "MDD/ANX", ""]
    sampling = odd.effect("sampling")
    assert "k/l/MDD/ANX" in sampling["population"].values
    assert set(zip(sampling["site"].values, sampling["diagnosis"].values, strict=True)) == {
        (site, diagnosis) for site in ODD["site"].values() for diagnosis in ("HC", "MDD/ANX")
        if (site, diagnosis) != ("m_HC", "MDD/ANX")
    }  # fmt: skip
    assert list(odd.effect("covariate")["covariate"].values) == ["age_y", "gender_m/1_a"]
    assert [cases[1].plain(note) for note in odd.run["notes"]] == plain.run["notes"]


def test_a_run_folder_keeps_the_names(cases, tmp_path):
    odd = cases[1].posterior
    odd.save(tmp_path / "run")
    again = load_posterior(tmp_path / "run")
    assert_same_trees(odd, again)
    for group in ("scales", "hyper", "effects/sampling", "effects/measurement", "effects/covariate"):
        one, other = odd.tree[group].to_dataset(), again.tree[group].to_dataset()
        assert all(one[name].values.tolist() == other[name].values.tolist() for name in one.coords)
    change = bayesharm.harmonize(again, cases[1].dataset, remove="measurement,sampling").mean
    np.testing.assert_array_equal(change, bayesharm.harmonize(odd, cases[1].dataset, remove="measurement,sampling").mean)


def test_summary_sources_and_similarity_are_the_same(cases):
    for analysis in (bayesharm.summarize, bayesharm.variance_components, bayesharm.scanner_similarity):
        one, other = (analysis(case.posterior) for case in cases)
        for name, table in vars(one).items():
            if isinstance(table, pd.DataFrame):
                assert_same_numbers(table, getattr(other, name))
        assert "MDD/ANX" in str(other) or analysis is bayesharm.scanner_similarity
    assert bayesharm.scanner_similarity(cases[1].posterior).groups[-1] == ["a/b", "b:HC", "x:y_z"]


def test_every_diagnosis_is_tested(tests_of_populations, cases):
    plain, odd = tests_of_populations
    assert list(plain.families.index) == ["sampling_HC", "sampling_MDD", ALL]
    assert list(odd.families.index) == ["sampling_HC", "sampling_MDD/ANX", ALL]
    assert list(odd.families.diagnosis) == ["HC", "MDD/ANX", ""]
    for name in ("families", "predictions", "features"):
        assert_same_numbers(getattr(plain, name), getattr(odd, name))
    assert [cases[1].plain(line) for line in odd.conclusions()] == plain.conclusions()
    assert odd.conclusions()[1].startswith("MDD/ANX: several populations")


@pytest.mark.parametrize("options", [
    {},
    {"remove": "measurement,sampling"},
    {"match_noise": True},
    {"remove": ["measurement", "sampling"], "match_noise": True},
])  # fmt: skip
def test_harmonized_data_are_the_same(cases, options):
    one, other = (bayesharm.harmonize(case.posterior, case.dataset, draws=2, **options) for case in cases)
    for name in ("mean", "sd", "draws"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert [cases[1].plain(note) for note in other.notes] == list(one.notes)


def test_a_diagnosis_takes_nothing_from_another_one_whose_name_ends_alike(cases):
    """`ANX` was recruited at one site and has no populations, though labels of `MDD/ANX` end with `/ANX`."""
    for case in cases:
        scans = case.dataset.scans
        bias = bayesharm.harmonize(case.posterior, case.dataset).mean
        both = bayesharm.harmonize(case.posterior, case.dataset, remove="measurement,sampling").mean
        changed = (bias != both).any(axis=1)
        travels = scans.participant_id.str.startswith("t")
        has_populations = ~travels & scans.diagnosis.isin(["HC", case.names.get("diagnosis", {}).get("MDD", "MDD")])
        np.testing.assert_array_equal(changed, has_populations)


@pytest.mark.parametrize("new_scanners", ["prior", "adapt"])
def test_new_scanners_and_populations_are_treated_the_same(cases, new_scanners):
    results = []
    for case, scanner, site in zip(cases, ("D", "y/z:HC"), ("N", "n/o_HC"), strict=True):
        diagnoses = [name if not case.names else case.names["diagnosis"][name] for name in ("HC", "MDD", "HC", "MDD")]
        scans = pd.DataFrame({
            "scan_id": list("wxyz"), "participant_id": list("WXYZ"), "scanner": scanner, "site": site,
            "diagnosis": diagnoses,
            "age_y": 30, "gender": case.dataset.scans.gender.iloc[0],
        })  # fmt: skip
        values = pd.DataFrame(make_features(make_scans())[:4], scans.scan_id, case.posterior.features)
        new = load_dataset(scans, values, check="apply")
        posterior = bayesharm.adapt(case.posterior, new) if new_scanners == "adapt" else case.posterior
        found = bayesharm.harmonize(posterior, new, remove="measurement,sampling", new_scanners="prior")
        results.append((found.mean, found.sd))
    np.testing.assert_array_equal(*results)


@pytest.mark.slow
def test_models_compare_the_same(cases):
    results = []
    for case in cases:
        other = bayesharm.fit(case.dataset, "cohort", seed=1, preview=True, feature_scaling="common", covariates=COVARIATES)
        results.append(bayesharm.compare_models(case.posterior, other, case.dataset))
    for name, table in vars(results[0]).items():
        if isinstance(table, pd.DataFrame):
            assert_same_numbers(table, getattr(results[1], name))


def test_report_and_plots_say_the_same(cases, tests_of_populations):
    plain, odd = (
        RunView(case.posterior, edge_table=edges_of(case), populations=told)
        for case, told in zip(cases, tests_of_populations, strict=True)
    )
    for section in SECTIONS:
        one, other = section(plain), section(odd)
        if one is None:
            assert other is None
            continue
        assert [cases[1].plain(sentence) for sentence in other.sentences] == one.sentences
        for table, same in zip(one.tables, other.tables, strict=True):
            assert_same_numbers(table.frame, same.frame)
    assert describe_populations(odd).tables
    page = render_report(odd)
    assert all(name in page for name in ("MDD/ANX", "sampling bias of HC", "x:y_z", "l:HC/ANX"))
    assert possible_plots(plain) == possible_plots(odd)
    for name in possible_plots(odd):
        assert draw_plot(name, odd).axes


def edges_of(case: Case) -> pd.DataFrame:
    ends = [f"{'R/' if case.names else 'R'}{k % 5}" for k in range(N_FEATURES)]
    others = [f"{'R/' if case.names else 'R'}{k % 7 + 5}" for k in range(N_FEATURES)]
    return pd.DataFrame({"feature": case.posterior.features, "node_a": ends, "node_b": others})


@pytest.mark.slow
def test_populations_with_one_label_stay_two():
    """Not one number differs where `k` with `MDD/ANX` and `k/MDD` with `ANX` are two populations of one plain label."""
    plain, colliding = (make_case(names, anx_at_one_site=False, preview=True) for names in ({}, COLLIDING))
    assert_same_trees(plain.posterior, colliding.posterior)
    labels = list(colliding.posterior.effect("sampling")["population"].values)
    assert "'k'/'MDD/ANX'" in labels and "'k/MDD'/'ANX'" in labels and len(set(labels)) == len(labels)
    options: dict[str, Any] = {"remove": "measurement,sampling", "match_noise": True}
    one, other = (bayesharm.harmonize(case.posterior, case.dataset, **options) for case in (plain, colliding))
    np.testing.assert_array_equal(one.mean, other.mean)
    np.testing.assert_array_equal(one.sd, other.sd)
    tables = [bayesharm.yamashita2019(case.dataset) for case in (plain, colliding)]
    assert_same_numbers(*(table.effects["sampling"] for table in tables))


@pytest.mark.parametrize("model", ["cohort", "traveling", "protocol"])
def test_designs_of_other_models_are_the_same(model):
    scans = random_study(1).assign(vendor=lambda table: table.vendor.str.lower())
    odd = scans.assign(scanner=scans.scanner + "/a:b_c", site=scans.site + ":HC/", vendor=scans.vendor + "_x/y:z")
    one, other = (
        build_design(table, with_protocol(table) if model == "protocol" else load_model(model)) for table in (scans, odd)
    )
    np.testing.assert_array_equal(one.matrix.toarray(), other.matrix.toarray())
    for name in ("column_scale", "scan_class", "of_scanner", "bias_ratio_of"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for left, right in zip(one.effects, other.effects, strict=True):
        assert left.name == right.name
        np.testing.assert_array_equal(left.contrasts, right.contrasts)


@pytest.mark.parametrize(("function", "names", "labels"), [
    (scale_labels, [Scale("noise"), Scale("sampling", "HC")], ("noise", "sampling_HC")),
    (scale_labels, [Scale("noise"), Scale("sampling_HC"), Scale("sampling", "HC")], ("noise", "sampling_HC", "sampling/HC")),
    (scale_labels, [Scale("x_1", "2"), Scale("x", "1_2"), Scale("x", "1/2")], ("x_1/2", "x/1_2", "x/1/2")),
    (population_labels, [Population("A", "HC"), Population("B", "HC")], ("A/HC", "B/HC")),
    (population_labels, [Population("A"), Population("B/HC")], ("A", "B/HC")),
    (population_labels, [Population("a/b", "c"), Population("a", "b/c")], ("'a/b'/'c'", "'a'/'b/c'")),
    (population_labels, [Population("'a/b'", "'c'"), Population("a/b", "c")], ("'a/b'/'c'", "a/b/c")),
    (column_labels, [Column("sampling", "A", "HC"), Column("mean", "mean")], ("sampling:A/HC", "mean:mean")),
    (column_labels, [Column("a", "b:c"), Column("a:b", "c")], ("a/'b:c'/''", "a:b/'c'/''")),
    (covariate_labels, [("age", None), ("sex", "M")], ("age", "sex_M")),
    (covariate_labels, [("sex_M", None), ("sex", "M")], ("'sex_M'", "'sex'_'M'")),
])  # fmt: skip
def test_labels_are_unique(function: Callable, names: list, labels: tuple[str, ...]):
    assert function(names) == labels


def test_covariates_whose_columns_would_share_a_label_are_two():
    scans = make_scans().assign(gender_m=lambda table: table.age_y % 7)
    spec = configure_model(
        "traveling_and_cohort", load_dataset(scans, make_features(scans)), covariates=["gender", "gender_m"]
    )
    design = build_design(scans, spec)
    (slopes,) = [group for group in design.effects if group.name == "covariate"]
    assert slopes.levels == ("'gender'_'m'", "'gender_m'")


def test_a_family_and_a_diagnosis_may_share_a_label():
    """A protocol factor in a column `sampling_HC`, beside the sampling bias of HC."""
    scans = random_study(1).assign(sampling_HC=lambda table: table.vendor)
    design = build_design(scans, name_factors(load_model("protocol"), ["sampling_HC"], scans))
    assert {"sampling_HC", "sampling/HC"} <= set(design.scale_labels)
    assert len(set(design.scale_labels)) == len(design.scales)


def test_a_reference_diagnosis_is_matched_as_a_whole():
    scans = make_scans().replace({"diagnosis": {"HC": "no/HC"}})
    with pytest.raises(ModelError, match="reference diagnosis 'HC' is not in the table"):
        build_design(scans, load_model("traveling_and_cohort"))
