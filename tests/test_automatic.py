"""The rule behind `--model auto`: designs with the model that it chooses, the reason, and what it says where in doubt."""

import inspect
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import bayesharm
from bayesharm.data.scans import read_scans
from bayesharm.errors import ModelError
from bayesharm.model.automatic import choose_model
from bayesharm.model.catalog import load_model, model_names
from bayesharm.model.configure import configure_model, resolve_model, screened_columns, trajectory_times
from bayesharm.model.design import build_design


def once(scanner: str, n: int, **columns) -> list[dict]:
    """People scanned once on a scanner."""
    return [{"participant_id": f"{scanner}-{k}", "scanner": scanner, **columns} for k in range(n)]


def repeated(name: str, n: int, scanners: str, **columns) -> list[dict]:
    """People with a scan on each of some scanners, or several on one; lists in the columns have a value for each visit."""
    return [
        {"participant_id": f"{name}{k}", "scanner": scanner}
        | {key: value[visit] if isinstance(value, list) else value for key, value in columns.items()}
        for k in range(n)
        for visit, scanner in enumerate(scanners)
    ]


BOTH = once("A", 9) + once("B", 9) + repeated("t", 4, "AB")
YEARS = [40.0, 42.5, 45.0]  # ages at three visits
DESIGNS = {
    "nobody traveled": (once("A", 9) + once("B", 9), "cohort", "nobody traveled", ""),
    "everybody traveled": (repeated("t", 6, "ABC"), "traveling", r"everybody traveled \(6 people\)", ""),
    "both": (BOTH, "traveling_and_cohort", "4 people traveled and 18 did not$", ""),
    "one traveler": (
        once("A", 9) + once("B", 9) + repeated("t", 1, "AB"), "traveling_and_cohort", "1 person traveled and 18 did not$", ""
    ),
    "one scanner": (once("A", 9), "cohort", "nobody traveled", ""),
    "repeats on one scanner": (once("A", 9) + repeated("B", 5, "BBB"), "cohort", "nobody traveled", ""),
    "travelers, and repeats on one scanner": (
        repeated("t", 4, "AB") + repeated("r", 5, "AA"), "traveling_and_cohort", "4 people traveled and 5 did not$", ""
    ),
    "travelers on some scanners": (
        BOTH + once("C", 9) + once("D", 9), "traveling_and_cohort", "did not, among them everybody on C and D$", ""
    ),
    "few travelers, and a cohort on other scanners": (
        repeated("t", 2, "AB") + once("C", 20), "traveling_and_cohort", "2 people .* among them everybody on C$", ""
    ),
    "travelers on scanners without a cohort": (
        BOTH + repeated("u", 2, "BC"), "traveling_and_cohort", "6 people traveled and 18 did not$", ""
    ),
    "travelers marked on one scanner": (
        [row | {"traveling": row["participant_id"] in ("t0", "A-0")} for row in BOTH],
        "traveling_and_cohort", "5 people traveled and 17 did not$", "",
    ),
    "marked, but nobody on two scanners": (
        [row | {"traveling": row["scanner"] == "A"} for row in once("A", 3) + once("B", 9)],
        "cohort", "nobody traveled", "^3 people are marked as traveling, but nobody was scanned on two scanners",
    ),
    "one site": (
        once("A", 9, site="London") + once("B", 9, site="London"),
        "cohort", "nobody traveled", "^Everybody was recruited at one site",
    ),
    "one site, with travelers": ([row | {"site": "London"} for row in BOTH], "traveling_and_cohort", "4 people", ""),
    "diagnoses": ([row | {"diagnosis": "HC" if k % 2 else "MDD"} for k, row in enumerate(BOTH)],
                  "traveling_and_cohort", "4 people", ""),
    "travelers with diagnoses": (
        repeated("t", 3, "AB", diagnosis="HC") + repeated("u", 3, "AB", diagnosis="MDD"),
        "traveling", "everybody traveled", "^The diagnoses of travelers differ: traveling_and_cohort",
    ),
    "visits over years": (
        repeated("A", 12, "AAA", age=YEARS) + repeated("B", 12, "BBB", age=YEARS) + once("A", 30, age=50.0),
        "longitudinal", r"24 of 24 people with several scans were scanned over up to 5 years \(column age\)", "",
    ),
    "visits over years, with new scanners": (repeated("p", 20, "ABB", age=YEARS), "longitudinal", "20 of 20", ""),
    "times of visits": (
        repeated("A", 10, "AA", time=[0.0, 0.5]) + repeated("B", 10, "BB", time=[0.0, 0.7]),
        "longitudinal", "column time", "",
    ),
    "times of visits, and ages": (
        repeated("A", 12, "AAA", age=YEARS, time=[0.0, 2.5, 5.0]) + repeated("B", 12, "BBB", age=40.0, time=0.0),
        "longitudinal", r"12 of 24 .*column time", "",
    ),
    "years since the first visit, and ages": (
        repeated("A", 12, "AAA", age=[40.0, 40.5, 42.0], years=[0.0, 0.5, 2.0])
        + repeated("B", 12, "BB", age=[40.0, 40.9], years=[0.0, 0.9]),
        "longitudinal", r"24 of 24 .*column years", "",
    ),
    "ages in months": (
        repeated("A", 10, "AA", age_months=[480, 520]) + once("B", 5, age_months=500), "longitudinal", "age_months", ""
    ),
    "birthdays between visits": (repeated("t", 12, "ABC", age=[40, 40, 41]), "traveling", "everybody", ""),
    "visits within weeks": (
        repeated("t", 12, "ABCD", time=[0.0, 0.02, 0.04, 0.06]) + once("A", 30, time=0.0),
        "traveling_and_cohort", "12 people traveled", "^12 of 12 people .* came back within half a year: too soon",
    ),
    "visits within weeks, over and over": (
        repeated("t", 12, "AB", time=[0.0, 0.1], years=0.0), "traveling", "everybody", "^12 of 12 .* too soon"
    ),
    "few people over years": (repeated("t", 5, "AAB", age=YEARS), "traveling", "everybody", ""),
    "few of those scanned repeatedly": (
        repeated("t", 10, "AB", age=[40.0, 44.0]) + repeated("u", 30, "AB", age=50.0),
        "traveling", "everybody", "^10 of 40 people .* --model longitudinal --time age gives",
    ),
    "days, and ages": (
        repeated("t", 12, "ABCD", age=30.0, time=[0.0, 7.0, 14.0, 21.0]),
        "traveling", "everybody", "^The time 'time' is long for years, and age does not.*21 years.*name it baseline_age",
    ),
    "times and an age that stays the same": (
        repeated("t", 30, "ABC", age=70.0, time=[0.0, 2.0, 4.0]) + repeated("u", 3, "AB", age=70.0, time=[0.0, 18.0]),
        "longitudinal", "33 of 33 .*column time", "^age does not change .* the age at the first scan, and time for years",
    ),
    "times and ages in steps of five years": (
        repeated("t", 12, "AB", age=[40.0, 45.0], time=[0.0, 1.0]) + repeated("u", 12, "AB", age=40.0, time=[0.0, 1.0]),
        "longitudinal", "24 of 24 .*column time", "",
    ),
    "times and ages of infants in months": (
        repeated("t", 12, "ABC", age=[1.0, 13.0, 25.0], time=[0.0, 1.0, 2.0]), "longitudinal", "12 of 12 .*column time", ""
    ),
    "weeks, and ages": (
        repeated("t", 12, "AB", age=[40.0, 41.0], time=[0.0, 52.0]),
        "traveling", "everybody", "^The time 'time', in years, does not fit the ages.*12 of 12 people with several scans",
    ),
    "clock hours, and ages": (
        repeated("t", 12, "AB", age=30.0, time=[9.0, 13.5]) + once("A", 9, age=50.0, time=8.0),
        "longitudinal", "12 of 12 .*column time", "^age does not change over the scans of a person",
    ),
    "days over years, and ages": (
        repeated("A", 12, "AAA", age=YEARS, time=[0.0, 913.0, 1826.0]) + repeated("B", 12, "BBB", age=YEARS, time=0.0),
        "longitudinal", r"24 of 24 .*column age", "^The time 'time', in years, lasts longer than any study.*--time age",
    ),
    "days over years": (
        repeated("A", 12, "AA", time=[0.0, 913.0]) + once("B", 12, time=0.0),
        "cohort", "nobody", "^The time 'time', in years, lasts longer than any study.*up to 913 years",
    ),
    "times and an age at the first scan": (
        repeated("t", 12, "AB", baseline_age=30.0, time=[0.0, 3.0]), "longitudinal", "to 3 years .column time, in years", ""
    ),
    "times as text": (repeated("t", 12, "AB", time=["9:00", "10:30"]), "traveling", "everybody", ""),
    "ages of different people": (once("A", 20, age=30.0) + once("B", 20, age=60.0), "cohort", "nobody", ""),
}  # fmt: skip


def table_of(rows: list[dict]) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    return read_scans(table, check="fit" if table.scanner.nunique() > 1 else "apply")


@pytest.mark.parametrize("name", DESIGNS)
def test_the_model_suits_the_design(name):
    rows, model, why, doubt = DESIGNS[name]
    scans = table_of(rows)
    found = choose_model(scans)
    assert found.model == model and found.time == (re.search(r"\(column (\w+)", found.why) or ["", ""])[1]
    assert pd.Series(found.why).str.contains(why).all(), found.why
    assert pd.Series(found.doubts).str.contains(doubt).tolist() == [True] * bool(doubt), found.doubts
    sentence, *doubts = found.sentences
    assert sentence == f"Model {model}, chosen because {found.why}." and doubts == list(found.doubts)


@pytest.mark.parametrize("name", [name for name in DESIGNS if name != "one scanner"])
def test_the_model_accepts_the_design(name):
    """For every catalog of models: the design accepts the chosen model."""
    scans = table_of(DESIGNS[name][0])
    chosen, said = resolve_model("auto", scans)
    spec = build_design(scans, configure_model(chosen, scans)).spec
    assert spec.name in said[0] and spec.name == choose_model(scans).model
    if not spec.slopes:
        assert spec == load_model(spec.name)


def test_trajectories_depend_on_the_column_that_was_found_or_named():
    scans = table_of(DESIGNS["visits over years, with new scanners"][0])
    chosen, _ = resolve_model("auto", scans)
    assert configure_model(chosen, scans) == configure_model("longitudinal", scans, time="age")
    timed = scans.assign(years=scans.groupby("participant_id").cumcount() / 2)
    chosen, said = resolve_model("auto", timed, "years")
    assert configure_model(chosen, timed) == configure_model("longitudinal", timed, time="years")
    assert said == ("Model longitudinal, chosen because --time names the column years.",)
    found = bayesharm.check(scans)
    assert found.model == "longitudinal" and found.precision is not None and not found.is_refused
    assert 'fit(dataset, "longitudinal"' in found.verdict.command and "time='age'" in found.verdict.command


def test_times_are_named_by_the_user_or_by_words_for_time():
    """In a model of one's own, effects of people may depend on a dose; by scanner, slopes are never trajectories."""
    longitudinal = load_model("longitudinal")

    def times(column: str, named: str | None = None, by: str = "participant") -> list[str]:
        family = replace(longitudinal.families[0], by=by, slope=column)
        spec = replace(longitudinal, name="own", families=(family,))
        assert screened_columns(spec, named)["times"] == trajectory_times(spec, named)
        return trajectory_times(spec, named)

    assert (
        times("time") == ["time"] and times("years_since_baseline") == ["years_since_baseline"] and times("age") == ["age"]
    )
    assert times("since", "since") == ["since"]
    assert times("dose") == times("reaction_time") == times("time", by="scanner") == []
    scans = table_of(BOTH).assign(since=1.0)
    assert trajectory_times(configure_model("longitudinal", scans, time="since")) == ["since"]


def test_a_check_with_a_time_takes_it_and_does_not_offer_it_as_a_covariate():
    scans = table_of(DESIGNS["years since the first visit, and ages"][0])
    assert "time='years'" in bayesharm.check(scans).verdict.command
    checked = bayesharm.check(scans.rename(columns={"years": "since"}), time="since")
    assert "time='since'" in checked.verdict.command and "since" in checked.covariates
    offered = bayesharm.check(scans.drop(columns="age")).verdict.command
    assert "time='years'" in offered and "covariates" not in offered


def test_a_catalog_without_a_longitudinal_model_has_none_to_choose():
    scans = table_of(DESIGNS["visits over years, with new scanners"][0])
    found = choose_model(scans, catalog={name: load_model(name) for name in model_names() if name != "longitudinal"})
    assert found.model == "traveling" and "what changed in them counts as noise" in found.doubts[0]


def test_times_that_are_missing_are_no_visits_over_time():
    """A fit would refuse them."""
    scans = table_of(DESIGNS["visits over years, with new scanners"][0])
    gap = scans.assign(time=scans.age.mask(scans.index == 7) - 40)
    by_age = choose_model(gap)
    assert by_age.time == "age" and by_age.doubts == ("time is missing for 1 of 60 scans: age is the time instead.",)
    found = choose_model(gap.drop(columns="age"))
    assert found.model == "traveling"
    assert (
        "(column time, in years), but time is missing for 1 of 60 scans: longitudinal needs it for all." in found.doubts[0]
    )
    assert choose_model(scans.assign(age=np.nan)).model == "traveling"
    assert choose_model(scans.assign(age=scans.age.where(scans.scanner == "A"))).model == "traveling"


def test_a_named_model_is_never_overruled():
    scans = table_of(BOTH)
    for model in ("cohort", load_model("traveling"), "path/to/folder"):
        assert resolve_model(model, scans) == (model, ())
    with pytest.raises(ModelError, match="'auto' is not a model"):
        load_model("auto")


def test_the_check_and_a_fit_share_the_rule():
    scans = table_of(BOTH)
    found, choice = bayesharm.check(scans), choose_model(scans)
    assert (found.verdict.model, found.verdict.why, found.model) == (choice.model, choice.why, choice.model)
    doubtful = table_of(DESIGNS["marked, but nobody on two scanners"][0])
    assert choose_model(doubtful).doubts[0] in bayesharm.check(doubtful).verdict.advice
    for function in (bayesharm.fit, bayesharm.check, bayesharm.cross_validate, bayesharm.BayesHarmonizer):
        assert inspect.signature(function).parameters["model"].default == "auto"
