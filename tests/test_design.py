"""From a table of scans to columns, scales, noise classes and contrasts."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from studies import own_parts, random_study

from bayesharm.datasets.simulate import simulate_srpbs
from bayesharm.errors import InputError, ModelError
from bayesharm.model.catalog import load_model
from bayesharm.model.design import FIXED, Design, build_design

MODELS = ["cohort", "traveling", "traveling_and_cohort"]


def make_scans(rows: str, **columns) -> pd.DataFrame:
    """A table from words `participant:scanner:diagnosis`; the site is the scanner."""
    names = ["participant_id", "scanner", "diagnosis"]
    table = pd.DataFrame([row.split(":") for row in rows.split()], columns=names)
    table.insert(0, "scan_id", [f"scan{k}" for k in range(len(table))])
    return table.assign(site=table.scanner, **columns)


def small() -> pd.DataFrame:
    """Two travelers; HC at A, B, C; MDD at A, B; SCZ at C only."""
    return make_scans("t1:A:HC t1:B:HC t2:B:HC t2:C:HC p1:A:HC p2:B:HC p3:C:HC q1:A:MDD q2:B:MDD z1:C:SCZ")


def design_of(scans: pd.DataFrame, model: str = "traveling_and_cohort", **changes) -> Design:
    return build_design(scans, replace(load_model(model), **changes))


def levels(design: Design) -> dict[str, tuple[str, ...]]:
    return {group.name: group.levels for group in design.effects}


def scans_of(design: Design, column: str) -> list[int]:
    return design.matrix[:, [design.column_labels.index(column)]].nonzero()[0].tolist()


def refused(error: type[Exception], message: str, *arguments, **changes) -> Exception:
    with pytest.raises(error, match=f"(?s){message}") as caught:
        design_of(*arguments, **changes)
    assert caught.value.got and caught.value.expected and caught.value.do
    return caught.value


@pytest.fixture(scope="module")
def srpbs() -> pd.DataFrame:
    return simulate_srpbs(1, seed=0).scans


def test_the_srpbs_study(srpbs):
    design = design_of(srpbs)
    assert (design.n_scans, len(design.columns), design.n_dense) == (1216, 38, 15)
    assert design.scale_labels == (
        "noise",
        "participant",
        "measurement",
        "sampling_HC",
        "sampling_MDD",
        "sampling_SCZ",
        "disorder",
    )
    assert design.scale_medians.tolist() == [0.8, 0.4, 0.3, 0.2, 0.2, 0.2, 0.2]
    assert [(group.name, group.dim, len(group.levels)) for group in design.effects] == [
        ("participant", "participant", 9),
        ("measurement", "scanner", 12),
        ("sampling", "population", 12),
        ("disorder", "diagnosis", 4),
    ]
    assert design.travelers == tuple(f"T{k:02d}" for k in range(1, 10))
    assert [note.split(":")[0] for note in design.notes] == ["ASD", "OCD"]
    once = design.class_single_scan[design.scan_class]
    assert once.sum() == 805 and not once[srpbs.participant_id.isin(design.travelers)].any()
    assert design.class_size.sum() == 1216 and len(design.class_size) == 12 + 9
    scanner = np.array(design.scanners)[design.class_scanner[design.scan_class]]
    assert (scanner == srpbs.scanner).all()


def test_travelers_carry_no_sampling_bias(srpbs):
    design = design_of(srpbs)
    traveling = srpbs.participant_id.isin(design.travelers).to_numpy()
    sampling = [k for k, name in enumerate(design.column_labels) if name.startswith("sampling:")]
    carried = design.matrix[:, sampling].sum(axis=1)
    lone = srpbs.diagnosis.isin(["ASD", "OCD"]).to_numpy()
    assert not carried[traveling].any() and not carried[lone].any()
    assert (carried[~traveling & ~lone] == 1).all()
    assert (
        scans_of(design, "sampling:UTO/SCZ") == np.flatnonzero((srpbs.site == "UTO") & (srpbs.diagnosis == "SCZ")).tolist()
    )


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("seed", range(4))
def test_eliminated_columns_share_no_scan_and_scales_belong_to_their_family(model, seed):
    design = design_of(random_study(seed), model)
    eliminated = design.matrix[:, design.n_dense :]
    assert eliminated.shape[1] > 0 and eliminated.sum(axis=1).max() <= 1
    assert len(set(design.column_labels)) == len(design.columns) == design.matrix.shape[1]
    for column, scale, sd in zip(design.column_labels, design.column_scale, design.column_sd, strict=True):
        family = column.split(":")[0]
        if family == "mean":
            assert (scale, sd) == (FIXED, design.spec.priors.mean_sd)
        else:
            assert design.scale_labels[scale].split("_")[0] == family and sd == np.inf


@pytest.mark.parametrize("model", MODELS)
def test_contrasts_are_finite_population_contrasts(model):
    """Each effect minus the mean of those that share its scale; disorder effects as they are."""
    design = design_of(random_study(5), model)
    effects = np.random.default_rng(0).normal(size=len(design.columns))
    for group in design.effects:
        own = [design.column_labels.index(f"{group.name}:{level}") for level in group.levels]
        reported = group.contrasts @ effects
        expected = effects[own].copy()
        if group.name != "disorder":
            for scale in set(design.column_scale[own]):
                member = design.column_scale[own] == scale
                expected[member] -= expected[member].mean()
                assert abs(reported[member].sum()) < 1e-12
        np.testing.assert_allclose(reported, expected, atol=1e-12)


def test_people_marked_as_traveling_carry_no_sampling_bias():
    scans = small()
    plain = design_of(scans)
    marked = design_of(scans.assign(traveling=scans.participant_id == "p1"))
    assert scans_of(plain, "sampling:A/HC") == [4]
    assert "p1" in marked.travelers and "p1" not in plain.travelers
    assert levels(marked)["sampling"] == ("B/HC", "C/HC", "A/MDD", "B/MDD")
    # on one scanner once: no participant column either, the participant effect is in the noise
    assert levels(marked)["participant"] == ("t1", "t2") and marked.class_single_scan[marked.scan_class[4]]


def test_one_marked_scan_marks_the_person():
    scans = make_scans("t1:A:HC t1:B:HC p1:A:HC p1:A:HC p2:A:HC p3:B:HC")
    scans["traveling"] = scans.scan_id == "scan2"
    design = design_of(scans)
    assert scans_of(design, "sampling:A/HC") == [4] and design.travelers == ("p1", "t1")


def test_an_unmarked_person_on_two_scanners_travels_all_the_same():
    assert design_of(small().assign(traveling=False)).travelers == ("t1", "t2")


def test_a_person_scanned_repeatedly_on_one_scanner_is_no_traveler():
    design = design_of(pd.concat([small(), make_scans("p1:A:HC")], ignore_index=True))
    assert design.travelers == ("t1", "t2")
    assert levels(design)["participant"] == ("p1", "t1", "t2")
    assert scans_of(design, "sampling:A/HC") == scans_of(design, "participant:p1") == [4, 10]
    # so that one of the two stays dense, and the other populations and participants are eliminated
    dense = design.column_labels[: design.n_dense]
    assert ("sampling:A/HC" in dense) != ("participant:p1" in dense) and "sampling:B/HC" not in dense
    assert not design.class_single_scan[design.scan_class[[4, 10]]].any()


def test_a_diagnosis_of_one_site_has_no_sampling_bias():
    design = design_of(small())
    assert design.scale_labels[-3:] == ("sampling_HC", "sampling_MDD", "disorder")
    assert levels(design)["sampling"] == ("A/HC", "B/HC", "C/HC", "A/MDD", "B/MDD")
    assert levels(design)["disorder"] == ("MDD", "SCZ")
    (note,) = design.notes
    assert note.startswith("SCZ: recruited at 'C' only.")


def test_a_reference_group_of_one_site_keeps_its_term_unreported():
    scans = small()
    design = design_of(scans[(scans.diagnosis != "HC") | scans.participant_id.str.startswith("t") | (scans.site == "A")])
    assert "sampling_HC" in design.scale_labels and "sampling:A/HC" in design.column_labels
    assert not any(level.endswith("/HC") for level in levels(design).get("sampling", ()))
    assert any(
        note.startswith("HC: recruited at 'A' only. The difference between these people and others") for note in design.notes
    )


def test_scanners_of_one_site_scan_one_population():
    design = design_of(small().assign(site=["H", "H", "H", "C"] + list("HHC") + list("HHC")))
    assert levels(design)["sampling"] == ("C/HC", "H/HC")
    assert scans_of(design, "sampling:H/HC") == [0, 1, 4, 5]  # the first traveler stays at H
    marked = small().assign(site=["H", "H", "H", "C"] + list("HHC") + list("HHC"), traveling=[True] * 4 + [False] * 6)
    assert scans_of(design_of(marked), "sampling:H/HC") == [4, 5]


def test_the_site_of_a_traveler_may_be_where_the_person_lives():
    """Then it is not that of the scanners, and the person belongs to the population of none."""
    design = design_of(small().assign(site=["home"] * 4 + list("ABC") + list("ABC")))
    assert levels(design)["sampling"] == levels(design_of(small()))["sampling"] and design.site_travelers == design.travelers


def test_without_diagnosis_everybody_is_one_group():
    design = design_of(small().drop(columns="diagnosis"))
    assert design.scale_labels == ("noise", "participant", "measurement", "sampling")
    assert levels(design)["sampling"] == ("A", "B", "C") and "disorder" not in levels(design)
    assert design.notes == ("No diagnosis column: no disorder effects.",)


def test_unsplit_sampling_has_one_scale():
    families = tuple(replace(family, split=False) for family in load_model("traveling_and_cohort").families)
    design = design_of(small(), families=families)
    assert design.scale_labels == ("noise", "participant", "measurement", "sampling", "disorder")
    assert levels(design)["sampling"] == ("A/HC", "B/HC", "C/HC", "A/MDD", "B/MDD")


def test_everybody_is_of_the_reference_group():
    design = design_of(small().assign(diagnosis="HC"))
    assert "disorder" not in levels(design) and "Everybody is 'HC': no disorder effects." in design.notes


def test_another_reference():
    design = design_of(small(), reference="MDD")
    assert levels(design)["disorder"] == ("HC", "SCZ")


def test_the_reference_diagnosis_must_be_there():
    scans = small().replace("HC", "control")
    error = refused(ModelError, "reference diagnosis 'HC' is not in the table", scans)
    assert "'control'" in error.got and "--reference" in error.do


@pytest.mark.parametrize("model", ["traveling", "traveling_and_cohort"])
@pytest.mark.parametrize("marked", [False, True])
def test_models_that_need_travelers_say_so(model, marked):
    """A mark in the table does not make a traveler of somebody who was on one scanner."""
    scans = make_scans("p1:A:HC p1:A:HC p2:B:HC p3:A:HC p4:B:HC", traveling=marked)
    error = refused(ModelError, "nobody was scanned on two or more scanners", scans, model)
    assert "4 participants" in error.got and "--model cohort" in error.do


def test_the_traveling_model_leaves_the_cohort_out_and_says_so():
    scans = pd.concat([small(), make_scans("p9:D:HC")], ignore_index=True)
    design = design_of(scans, "traveling")
    assert design.rows.tolist() == [0, 1, 2, 3] and design.participants.tolist() == ["t1", "t1", "t2", "t2"]
    assert design.scanners == ("A", "B", "C") and levels(design)["measurement"] == ("A", "B", "C")
    assert design.scale_labels == ("noise", "participant", "measurement")
    assert design.notes == (
        "7 scans of people who did not travel are not used by this model.",
        "No traveling subject was scanned on 'D': this model does not estimate its effect.",
    )


def test_only_travelers_in_a_model_for_everybody():
    design = design_of(small().iloc[:4])
    assert "sampling" not in levels(design) and "Everybody traveled between sites: no sampling effects." in design.notes


def test_the_cohort_model_without_travelers():
    scans = make_scans("p1:A:HC p2:A:MDD p3:B:HC p4:B:MDD")
    design = design_of(scans, "cohort")
    assert design.scale_labels == ("noise", "site", "disorder") and design.travelers == ()
    assert design.single_scan_scale == 0 and not design.class_single_scan.any()
    assert design.notes == ("Nobody was scanned twice: participant effects are part of the noise.",)
    assert design.column_labels == ("mean:mean", "disorder:MDD", "site:A", "site:B") and design.n_dense == 2


def test_a_scanner_with_one_scan():
    design = design_of(pd.concat([small(), make_scans("p9:D:HC")], ignore_index=True))
    assert scans_of(design, "measurement:D") == scans_of(design, "sampling:D/HC") == [10]
    assert design.class_size[design.scan_class[10]] == 1


def test_covariates_are_standardized_and_reported_in_their_own_units():
    age, sex, coil = np.arange(10) * 3.0, list("FM") * 5, "8 12 32 8 12 32 8 8 12 8".split()
    names = ("age", "sex", "coil", "motion")
    scans = small().assign(age=age, sex=sex, coil=coil, motion=np.arange(10) % 3 > 0)
    design = design_of(scans, covariates=names)
    assert levels(design)["covariate"] == ("age", "sex_M", "coil_32", "coil_8", "motion")
    columns = [design.column_labels.index(f"covariate:{level}") for level in levels(design)["covariate"]]
    values = design.matrix[:, columns].toarray()
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose([part.std() for part in own_parts(values.T)], 1)  # of what the others do not explain
    assert (design.column_scale[columns] == FIXED).all() and max(columns) < design.n_dense
    assert (design.column_sd[columns] == design.spec.priors.slope_sd).all()
    # a slope reported by the contrast, times the covariate as the user has it, gives the effect of the column
    group = next(group for group in design.effects if group.name == "covariate")
    slope = group.contrasts[group.levels.index("age"), design.column_labels.index("covariate:age")]
    np.testing.assert_allclose(slope * (age - age.mean()), values[:, group.levels.index("age")])


def test_categories_that_do_not_occur_are_left_out_and_their_order_is_kept():
    coil = pd.Categorical(["8ch", "32ch"] * 5, categories=["8ch", "12ch", "32ch"])
    design = design_of(small().assign(coil=coil), covariates=("coil", "coil"))
    assert levels(design)["covariate"] == ("coil_32ch",)
    assert np.isfinite(design.matrix.toarray()).all()


@pytest.mark.parametrize(
    ("covariate", "message"),
    [
        ("motion", "no covariate 'motion'"),
        ("constant", "'constant' is the same for every scan"),
        ("missing", "'missing' has missing or infinite values.*'scan3'"),
        ("infinite", "'infinite' has missing or infinite values.*'scan9'"),
        ("unnamed", "'unnamed' has missing or infinite values.*'scan0'"),
        ("date", "'date' is neither numbers nor categories"),
        ("mixed", r"'mixed' is numeric except for some values.*'\?', of scans 'scan4'"),
    ],
)
def test_covariates_that_cannot_be_used_are_refused(covariate, message):
    age = np.arange(10.0)
    scans = small().assign(
        constant=1.0,
        missing=np.where(age == 3, np.nan, age),
        infinite=np.where(age == 9, np.inf, age),
        unnamed=[None, *"abcdefghi"],
        mixed=[*"0123?56789"],
        date=pd.date_range("2020-01-01", periods=10),
    )
    refused(InputError, message, scans, covariates=(covariate,))


def test_a_covariate_constant_among_the_scans_in_use_is_refused():
    scans = small().assign(sex=["M"] * 4 + ["F"] * 6)
    design_of(scans, covariates=("sex",))
    message = "'sex' is the same for every scan in the model"
    refused(InputError, message, scans, "traveling", covariates=("sex",))


def test_the_table_is_not_changed_and_the_order_of_scans_does_not_matter():
    scans = small()
    before = scans.copy()
    design = design_of(scans)
    pd.testing.assert_frame_equal(scans, before)
    order = np.random.default_rng(1).permutation(len(scans))
    shuffled = design_of(scans.iloc[order].reset_index(drop=True))
    assert shuffled.column_labels == design.column_labels and shuffled.scale_labels == design.scale_labels
    assert (shuffled.matrix.toarray() == design.matrix.toarray()[order]).all()
    assert (shuffled.scan_class == design.scan_class[order]).all()


def test_an_identifier_is_no_covariate():
    scans = pd.concat([small()] * 4, ignore_index=True)
    scans["scan_id"] = [f"n{k}" for k in range(len(scans))]
    for name in ("scan_id", "scanner"):
        with pytest.raises(InputError, match=f"'{name}' cannot be a covariate"):
            design_of(scans, covariates=(name,))
    with pytest.raises(InputError, match="too many categories"):
        design_of(scans.assign(label=scans.scan_id), covariates=("label",))


def test_contradictions_of_the_table_are_noted():
    scans = small().assign(traveling=False)
    scans.loc[0, "diagnosis"] = "MDD"  # of t1, HC elsewhere
    notes = " ".join(design_of(scans).notes)
    assert "Marked as not traveling, but scanned on several scanners, and so travelers: 't1', 't2'" in notes
    assert "Of more than one diagnosis: 't1'" in notes


def test_a_property_of_the_scanners_is_no_covariate():
    """Families by such a column are refused too; a column that it multiplies may vary."""
    scans = small().assign(field=lambda table: (table.scanner == "A") + 1.5, room=lambda table: "room " + table.scanner)
    scans["age"] = np.arange(len(scans)) % 5 + 30.0
    for options, named in (
        ({"covariates": ("field",)}, "'field'"),
        ({"formula": "age + room"}, "'room'"),
        ({"formula": "age + log(field)"}, "'log"),
    ):
        with pytest.raises(InputError, match=f"^{named}.*the same in all scans of a scanner") as refused:
            design_of(scans, **options)
        assert "vary within scanners" in refused.value.expected and "--model protocol" in refused.value.do
    mixed = scans.assign(room=scans.room.mask(scans.index == 0, "room B"))
    for options in ({"formula": "age + age:field"}, {"covariates": ("room",)}):
        design_of(mixed, **options)


def test_which_scanners_have_biases_of_a_size_of_their_own():
    """Where there are populations, those that travelers were on; of two scanners none."""
    travelers = [(f"t{i}", name) for i in range(2) for name in "ABC"]
    cohort = [(f"c{name}{i}", name) for name in "ABCD" for i in range(2)]
    scans = pd.DataFrame(travelers + cohort, columns=["participant_id", "scanner"])
    scans = scans.assign(scan_id=[f"s{n}" for n in range(len(scans))], site=scans.scanner, diagnosis="HC")

    def sized(model: str, table: pd.DataFrame = scans, **changes) -> set[str]:
        design = build_design(table, replace(load_model(model), **changes))
        own = np.flatnonzero(design.bias_ratio_of >= 0)
        assert {design.column_labels[k].partition(":")[0] for k in own} <= {"measurement", "site"}
        return {design.scanners[k] for k in design.bias_ratio_of if k >= 0}

    assert sized("traveling_and_cohort") == {"A", "B", "C"}
    assert sized("traveling") == {"A", "B", "C"}
    assert sized("cohort") == {"A", "B", "C", "D"}
    assert sized("traveling_and_cohort", bias_ratio="homogeneous") == set()
    assert sized("traveling_and_cohort", scans[scans.scanner.isin(["A", "B"])]) == set()
