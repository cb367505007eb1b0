"""Identifiability: graphs of scanners, contraction of contrasts, and the sentences for the user."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from studies import covariance, random_study

from bayesharm.conditional.identifiability import Identifiability, identify
from bayesharm.datasets.simulate import simulate_srpbs
from bayesharm.errors import InputError
from bayesharm.likelihood.problem import make_problem
from bayesharm.model.catalog import load_model
from bayesharm.model.design import Design, build_design

MODELS = ["cohort", "traveling", "traveling_and_cohort"]


def make_scans(rows: str) -> pd.DataFrame:
    """A table from words `participant:scanner:site`, all of one diagnosis."""
    names = ["participant_id", "scanner", "site"]
    table = pd.DataFrame([row.split(":") for row in rows.split()], columns=names)
    table.insert(0, "scan_id", [f"scan{k}" for k in range(len(table))])
    return table.assign(diagnosis="HC")


def cohort(site: str, scanner: str, n: int = 4) -> str:
    return " ".join(f"p{scanner}{k}:{scanner}:{site}" for k in range(n)) + " "


def identified(rows: str, model: str = "traveling_and_cohort", **changes) -> Identifiability:
    return identify(build_design(make_scans(rows), replace(load_model(model), **changes)))


def pair(found: Identifiability, first: str, second: str) -> pd.Series:
    rows = found.pairs[(found.pairs["first"] == first) & (found.pairs["second"] == second)]
    assert len(rows) == 1
    return rows.iloc[0]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("model", MODELS)
def test_contraction_is_that_of_conditioning_the_joint_normal(model, seed):
    """Posterior variances from the covariance of all scans, written down from the definition of the model."""
    scans = random_study(seed)
    design = build_design(scans, replace(load_model(model), covariates=("age",)))
    shift = np.random.default_rng(seed).normal(0, 0.5, len(design.scales))
    log_scales = np.log(design.scale_medians) + shift
    scales = dict(zip(design.scale_labels, np.exp(log_scales), strict=True))
    used, dense = covariance(scans, design.spec, scales, dict.fromkeys(design.scanners, 1.0))
    scans = scans[used]
    found = identify(design, log_scales).contrasts.set_index(["group", "level"])

    def contraction(scale: float, weight: np.ndarray, label: pd.Series, rows: np.ndarray) -> np.ndarray:
        """Of contrasts (weight by level) of effects that the scans of each label share."""
        prior = scale**2 * weight @ weight.T
        shared = scale**2 * weight @ (label.to_numpy() == np.arange(weight.shape[1])[:, None])
        shared, joint = shared[:, rows], dense[np.ix_(rows, rows)]
        return np.diag(shared @ np.linalg.solve(joint, shared.T)) / np.diag(prior)

    everyone = np.arange(len(scans))
    travelers = np.flatnonzero(scans.participant_id.isin(design.travelers))
    name, scanner = design.spec.removed_effect, scans.scanner.map(design.scanners.index)
    centered = np.eye(len(design.scanners)) - 1 / len(design.scanners)
    for column, rows in (("contraction", everyone), ("contraction_travelers", travelers)):
        expected = contraction(scales[name], centered, scanner, rows)
        np.testing.assert_allclose(found.loc[name][column], expected, atol=1e-10)
    if "disorder" in design.scale_labels:
        levels = list(found.loc["disorder"].index)
        label = scans.diagnosis.map(lambda group: levels.index(group) if group in levels else -1)
        expected = contraction(scales["disorder"], np.eye(len(levels)), label, everyone)
        np.testing.assert_allclose(found.loc["disorder"].contraction, expected, atol=1e-10)
        assert found.loc["disorder"].contraction_travelers.isna().all()
    if any(level.endswith("/HC") for _, level in found.index):
        levels = [level for level in found.loc["sampling"].index if level.endswith("/HC")]
        healthy = (scans.diagnosis == "HC") & ~scans.participant_id.isin(design.site_travelers)
        label = (scans.site + "/HC").where(healthy, "")
        label = label.map(lambda population: levels.index(population) if population in levels else -1)
        contrast = np.eye(len(levels)) - 1 / len(levels)
        expected = contraction(scales["sampling_HC"], contrast, label, everyone)
        np.testing.assert_allclose(found.loc["sampling"].loc[levels].contraction, expected, atol=1e-10)
    pairs = identify(design, log_scales).pairs
    unit = dict(zip(design.scanners, np.eye(len(design.scanners)), strict=True))
    difference = np.array([unit[a] - unit[b] for a, b in zip(pairs["first"], pairs["second"], strict=True)])
    expected = contraction(scales[name], difference, scanner, everyone)
    np.testing.assert_allclose(pairs.contraction, expected, atol=1e-10)


@pytest.fixture(scope="module")
def srpbs() -> Design:
    return build_design(simulate_srpbs(1, seed=0).scans, load_model("traveling_and_cohort"))


def test_the_srpbs_study(srpbs):
    found = identify(srpbs)
    assert found.components == (srpbs.scanners,)
    assert set(found.pairs.rests_on) == {"travelers"} and len(found.pairs) == 66
    assert found.scanners.columns.tolist() == ["component", "n_scans", "n_travelers", "n_single_scan"]
    assert found.scanners.loc["ATT"].tolist() == [0, 197, 9, 65]
    assert found.scanners.n_single_scan.sum() == 805
    rows = found.contrasts.set_index(["group", "level"])
    assert rows.loc[("sampling", "UTO/SCZ"), ["n_scans", "n_participants"]].tolist() == [14, 14]
    assert rows.loc[("measurement", "KUS"), ["n_scans", "n_participants"]].tolist() == [27, 9]
    assert rows.contraction.between(0, 1).all()
    measurement = rows.loc["measurement"]
    assert (measurement.contraction > measurement.contraction_travelers).all()  # the cohort adds to it
    assert measurement.contraction_travelers.idxmax() == "ATT"
    assert measurement.contraction_travelers.min() > 0.7
    weak, *notes = found.sentences()
    assert weak.startswith("sampling: the estimates of SWA/SCZ (36% from the data), KUT/MDD (37%), UTO/SCZ (38%)")
    assert tuple(notes) == srpbs.notes and [note[:3] for note in notes] == ["ASD", "OCD"]


def test_given_scales_change_contraction(srpbs):
    medians, before = np.log(srpbs.scale_medians), identify(srpbs).contrasts.contraction
    np.testing.assert_array_equal(identify(srpbs, medians).contrasts.contraction, before)
    noisier = medians + np.eye(len(medians))[0]
    assert (identify(srpbs, noisier).contrasts.contraction < before).all()
    with pytest.raises(InputError, match="one log-scale for each scale") as caught:
        identify(srpbs, medians[1:])
    assert "sampling_SCZ" in caught.value.expected


def test_travelers_join_scanners_through_others():
    found = identified("t1:A:A t1:B:B t2:B:B t2:C:C t3:E:E t3:D:D " + cohort("A", "A") + cohort("D", "D"))
    assert found.components == (("A", "B", "C"), ("D", "E"))
    assert pair(found, "A", "C").rests_on == pair(found, "D", "E").rests_on == "travelers"
    assert found.scanners.component.to_dict() == {"A": 0, "B": 0, "C": 0, "D": 1, "E": 1}
    assert found.scanners.n_travelers.to_dict() == {"A": 1, "B": 2, "C": 1, "D": 1, "E": 1}


def test_people_scanned_repeatedly_on_one_scanner_and_marks_join_nothing():
    scans = make_scans("t1:A:A t1:B:B r:C:C r:C:C m:C:C " + cohort("C", "C"))
    scans = scans.assign(traveling=scans.participant_id == "m")
    found = identify(build_design(scans, load_model("traveling_and_cohort")))
    assert found.components == (("A", "B"), ("C",))
    assert found.scanners.loc["C"].tolist() == [1, 7, 1, 5]


def test_a_scanner_without_travelers_rests_on_the_prior_of_sampling_bias():
    people = "".join(cohort(name, name, 20) for name in "ABC")
    found = identified("t1:A:A t1:B:B t2:A:A t2:B:B " + people)
    assert found.components == (("A", "B"), ("C",))
    assert pair(found, "A", "C").rests_on == "prior of sampling bias"
    assert found.sentences()[0] == (
        "No traveler links C to any other scanner: its difference from the others rests on the prior of sampling bias."
    )
    # the prior makes contraction look fine; that of travelers does not
    c = found.contrasts.set_index("level").loc["C"]
    assert c.contraction > 0.5 and abs(c.contraction_travelers) < 0.01


def test_scanners_that_share_a_population_are_compared_by_it():
    found = identified("t1:A:A t1:B:B " + cohort("A", "A") + cohort("H", "B") + cohort("H", "C"))
    assert pair(found, "B", "C").rests_on == pair(found, "A", "C").rests_on == "shared population"
    assert "is estimated from different people of one population, not from the same people." in found.sentences()[0]


def test_scanners_of_travelers_only_rest_on_comparable_people():
    rows = "t1:A:A t1:B:B t2:A:A t2:B:B t3:C:C t3:D:D t4:C:C t4:D:D "
    for model in ("traveling", "traveling_and_cohort"):
        found = identified(rows + cohort("A", "A") + cohort("B", "B"), model)
        assert found.components == (("A", "B"), ("C", "D"))
        assert pair(found, "A", "C").rests_on == "prior of participant effects"
        assert found.sentences()[0] == (
            "No traveler links C and D to A and B: the difference between them rests on the prior of "
            "participant effects, which assumes that the people scanned there are comparable."
        )


def test_many_scanners_without_travelers_share_a_sentence():
    rows = "t1:A:A t1:B:B " + "".join(cohort(name, name) for name in "ABCDEFGHIJ")
    (sentence,) = [text for text in identified(rows).sentences() if text.startswith("No traveler")]
    assert "C, D, E, F, G, H and 2 more to any other scanner: their difference" in sentence


def test_single_travelers_and_single_scans_are_reported():
    people = cohort("A", "A") + cohort("B", "B")
    found = identified("t1:A:A t1:B:B t2:A:A t2:B:B t3:A:A t3:C:C " + people)
    visit = "C: only one traveler, so the effect of that visit cannot be separated from the effect of the scanner."
    assert visit in found.remarks
    noise = "C: only one scan, so the noise of the scanner is estimated from that scan alone."
    assert noise in found.remarks
    weak = found.contrasts[found.contrasts.contraction < 0.5]
    assert {"C", "t3"} <= set(weak.level)
    for group, levels in weak.groupby("group"):
        start = f"{group}: the estimate"
        (sentence,) = [text for text in found.sentences() if text.startswith(start)]
        assert all(f"{level} (" in sentence for level in levels.level)


def test_nobody_traveled():
    found = identified(cohort("A", "A") + cohort("B", "B"), "cohort")
    assert found.components == (("A",), ("B",))
    assert found.sentences()[0] == (
        "Nobody traveled between scanners: measurement and sampling bias are not separable; the site effect of a scanner "
        "contains both, and removing it also removes real differences between populations."
    )
    assert not any(text.startswith("No traveler") for text in found.sentences())
    site = found.contrasts.set_index("level").loc["A"]
    assert site.contraction > 0.1 and site.contraction_travelers == 0
    found = identified(cohort("A", "A") + cohort("B", "B"), requires_travelers=False)
    assert found.sentences()[0].endswith("do not separate measurement from sampling bias, only their priors do.")


def test_a_model_that_does_not_separate_although_people_traveled():
    rows = "t1:A:A t1:B:B " + cohort("A", "A") + cohort("B", "B")
    assert "the model traveling_and_cohort can separate them" in identified(rows, "cohort").sentences()[0]


def test_one_level_has_no_contrast():
    found = identified("t1:A:A t1:B:B " + cohort("A", "A"))
    assert not {"participant", "sampling"} & set(found.contrasts.group)  # one traveler, one site of people scanned once
    assert found.contrasts.contraction.notna().all() and not any("nan" in text for text in found.sentences())


@pytest.mark.parametrize("model", MODELS)
def test_scales_may_be_extreme(model):
    design = build_design(random_study(1), load_model(model))
    for shift in (-12, 12):
        for k in range(len(design.scales)):
            log_scales = np.log(design.scale_medians) + shift * np.eye(len(design.scales))[k]
            contraction = identify(design, log_scales).contrasts.contraction
            assert contraction.between(-1e-8, 1 + 1e-8).all()


def test_more_travelers_tell_more():
    both = cohort("A", "A") + cohort("B", "B")
    few = identified("t1:A:A t1:B:B t2:A:A t2:B:B " + both)
    more = identified("t1:A:A t1:B:B t2:A:A t2:B:B t3:A:A t3:B:B " + both)
    for column in ("contraction", "contraction_travelers"):
        assert pair(more, "A", "B")[column] > pair(few, "A", "B")[column]


def test_memory_grows_with_people_and_not_with_their_square():
    """A longitudinal study: 4,000 people scanned twice on one of ten scanners each, and travelers between these."""
    n_people = 4000
    cohort = [(f"p{i}", f"S{i % 10}") for i in range(n_people) for _ in range(2)]
    travelers = [(f"t{i}", f"S{s}") for i in range(5) for s in range(10)]
    scans = pd.DataFrame(cohort + travelers, columns=["participant_id", "scanner"])
    scans = scans.assign(scan_id=[f"scan{k}" for k in range(len(scans))], site=scans.scanner, diagnosis="HC")
    tracemalloc.start()
    design = build_design(scans, load_model("traveling_and_cohort"))
    identify(design)
    problem = make_problem(design)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert problem.likelihood.n_column_classes < 30  # participants with the same visits are equivalent
    assert peak < n_people**2 * 8 / 2
