"""Families by any column, nested and crossed, with slopes; and the columns that cannot be one."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from studies import extend, random_study

from bayesharm.errors import InputError, ModelError
from bayesharm.model.catalog import load_model
from bayesharm.model.configure import configure_model
from bayesharm.model.design import build_design
from bayesharm.model.noise_classes import MAX_ERROR, round_noise
from bayesharm.model.spec import Family


def with_family(**values):
    spec = load_model("traveling_and_cohort")
    return replace(spec, families=(*spec.families, Family(**({"name": "more", "prior_median": 0.2} | values))))


def levels(design, family):
    return [column.level for column in design.columns if column.family == family]


def test_levels_of_columns_crossed_and_nested():
    scans = random_study(2)
    design = build_design(scans, extend("families"))
    assert set(levels(design, "sibling")) == set(scans.family_id)
    assert set(levels(design, "operator")) == set(scans.site + "/" + scans.operator)
    assert set(levels(design, "drift")) == set(scans.scanner + "/" + scans.coil)
    for family, label in (("operator", scans.site + "/" + scans.operator), ("sibling", scans.family_id)):
        for k, column in enumerate(design.columns):
            if column.family == family:
                np.testing.assert_array_equal(design.matrix[:, [k]].toarray()[:, 0], label == column.level)


def test_labels_of_several_columns_stay_apart():
    scans = random_study(2)
    scans["first"] = np.where(np.arange(len(scans)) % 3 == 0, "a/b", "a")
    scans["second"] = np.where(np.arange(len(scans)) % 3 == 1, "b/c", "c")
    design = build_design(scans, with_family(by="first × second"))
    assert set(levels(design, "more")) == {"'a/b'/c", "a/'b/c'", "a/c"}
    scans["first"] = scans["first"].replace("a/b", "a")  # names of levels do not depend on the other levels
    assert set(levels(build_design(scans, with_family(by="first × second")), "more")) == {"a/'b/c'", "a/c"}


@pytest.mark.parametrize(
    ("values", "family", "what"),
    [
        ({}, {"by": "team"}, "needs the column 'team'"),
        ({}, {"by": "scaner"}, "needs the column 'scaner'.*write 'scanner' in model.toml if that is meant"),
        ({}, {"by": "scanner x years"}, "needs the column 'scanner x years'.*write the sign ×"),
        ({"team": "x"}, {"by": "team"}, "has one level"),
        ({"team": range}, {"by": "team"}, "has a different level in every scan"),
        ({"team": None}, {"by": "team"}, "have missing values.*team: none for"),
        ({}, {"by": "site", "nested_in": "scanner"}, "nested the wrong way.*nest scanner in site"),
        (
            {"team": "scanner"},
            {"by": "team"},
            "families 'measurement' and 'more' divide the scans alike.*by scanner and by t",
        ),
        ({"team": "participant_id"}, {"by": "team"}, "families 'participant' and 'more' divide the scans alike"),
        ({"team": "diagnosis"}, {"by": "team"}, "families 'disorder' and 'more' divide the scans alike"),
        (
            {},
            {"by": "site × diagnosis"},
            "families 'sampling' and 'more' divide the scans alike.*by population and",
        ),
        ({}, {"by": "scanner"}, "families 'measurement' and 'more' divide the scans alike.*by scanner and by scanner"),
        ({}, {"by": "participant"}, "families 'participant' and 'more' divide the scans alike"),
        ({}, {"by": "vendor"}, "by vendor, does not vary within any scanner.*component_of = 'measurement'"),
        ({}, {"by": "operator", "slope": "years"}, None),
        ({"years": 3.0}, {"by": "operator", "slope": "years"}, "the same in all scans"),
        ({"years": "long"}, {"by": "operator", "slope": "years"}, "not numeric"),
        ({"years": np.nan}, {"by": "operator", "slope": "years"}, "missing or infinite"),
        ({}, {"by": "operator", "slope": "decades"}, "needs the column 'decades'"),
    ],
)
def test_columns_that_cannot_be_a_family_are_refused(values, family, what):
    scans = random_study(2)
    for name, value in values.items():
        if value is range:
            scans[name] = np.arange(len(scans)).astype(str)
        elif value is None:
            scans[name] = np.where(np.arange(len(scans)) % 5 == 0, None, "a")
        else:
            scans[name] = scans[value] if isinstance(value, str) and value in scans else value
    if what is None:
        build_design(scans, with_family(**family))
        return
    with pytest.raises((InputError, ModelError), match=f"(?s){what}") as caught:
        build_design(scans, with_family(**family))
    assert caught.value.got and caught.value.expected and caught.value.do


def test_two_families_that_are_the_same_are_refused():
    scans, spec = random_study(2), with_family(by="operator")
    spec = replace(spec, families=(*spec.families, Family("again", "operator", 0.2)))
    with pytest.raises(InputError, match="'more' and 'again' divide the scans alike"):
        build_design(scans, spec)


def test_a_column_that_changes_within_a_scanner_is_a_family_and_so_are_groups_that_coincide():
    scans = random_study(2)
    changed = scans.assign(vendor=scans.vendor.mask(scans.index == scans.index[0], "upgraded"))
    assert "upgraded" in levels(build_design(changed, with_family(by="vendor")), "more")
    one = scans.assign(site=scans.scanner, diagnosis="HC")  # populations are the scanners
    build_design(one, load_model("traveling_and_cohort"))
    with pytest.raises(InputError, match="divide the scans alike.*'sampling'|'sampling'.*divide the scans alike"):
        build_design(scans.assign(diagnosis="HC"), with_family(by="site"))


def test_trajectories_need_a_time_that_changes_within_people():
    scans = random_study(2)
    scans["years"] = scans.groupby("participant_id").years.transform("first")
    with pytest.raises(InputError, match="the same in all scans of each participant"):
        build_design(scans, extend("slopes"))


def test_slopes_of_participants_count_from_their_first_scan_others_from_the_mean():
    scans = random_study(2)
    design = build_design(scans, extend("slopes"))
    of_people, of_scanners, _ = design.standards.slopes
    assert (of_people.center, of_scanners.center) == (0.0, scans.age.mean())
    first = scans.groupby("participant_id").years.transform("min")
    for k, column in enumerate(design.columns):
        partner = design.partner[k]
        if column.family == "participant_years":
            assert design.columns[partner] == column._replace(family="participant")
            expected = np.where(scans.participant_id == column.level, (scans.years - first) / of_people.sd, 0.0)
        elif column.family == "measurement_age":
            assert design.columns[partner] == column._replace(family="measurement")
            expected = np.where(scans.scanner == column.level, (scans.age - scans.age.mean()) / of_scanners.sd, 0.0)
        else:
            continue
        np.testing.assert_allclose(design.matrix[:, [k]].toarray()[:, 0], expected, atol=1e-12)
    assert design.correlations == ("participant", "measurement", "disorder")
    assert any("count years from the first scan" in note for note in design.notes)


def test_the_mean_slope_becomes_a_covariate():
    scans = random_study(2).assign(time=lambda scans: scans.years)
    spec = load_model("longitudinal")
    assert configure_model(spec, scans).covariates == ("time",)
    assert configure_model(spec, scans, covariates=["age", "time"]).covariates == ("age", "time")
    by_age = configure_model(spec, scans, time="age")
    assert by_age.covariates == ("age",) and {family.slope for family in by_age.slopes} == {"age"}
    with pytest.raises(InputError, match="no trajectories of participants"):
        configure_model("cohort", scans, time="age")


def test_the_largest_set_of_columns_that_share_no_scan_is_eliminated_first():
    design = build_design(random_study(2), extend("families"))
    eliminated = design.matrix[:, design.n_dense :]
    assert ((eliminated != 0).sum(axis=1) <= 1).all()
    largest = max(len(levels(design, family.name)) for family in design.spec.families)
    assert len(design.columns) - design.n_dense >= largest


def test_large_families_that_cross_are_named_with_their_cost():
    n = 130
    scans = pd.DataFrame({
        "participant_id": np.repeat([f"p{k}" for k in range(n)], 2), "scanner": ["A", "B"] * n, "site": "s",
        "family_id": np.roll(np.repeat([f"f{k}" for k in range(n)], 2), 1),
    })  # fmt: skip
    scans.insert(0, "scan_id", [f"s{k}" for k in range(len(scans))])
    spec = replace(load_model("traveling"), families=(*load_model("traveling").families, Family("kin", "family_id", 0.2)))
    (cost,) = build_design(scans, spec).cost
    assert "133 effects are solved together, 130 of them kin effects" in cost and "times that of 20 effects" in cost


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, "thin"])
def test_noise_weights_are_variances(value):
    scans = random_study(2)
    scans["w"] = pd.Series([value, *[1.0] * (len(scans) - 1)], dtype=object if isinstance(value, str) else float)
    with pytest.raises(InputError, match=rf"(?s)values that are not variances.*of {scans.scan_id[0]}"):
        build_design(scans, replace(load_model("cohort"), noise_weight="w"))
    with pytest.raises(InputError, match="no column 'v' of noise weights"):
        build_design(scans, replace(load_model("cohort"), noise_weight="v"))


def test_relative_noise_is_exact_for_people_scanned_repeatedly_and_rounded_for_others():
    scans = random_study(2)
    design = build_design(scans, replace(load_model("traveling_and_cohort"), noise_weight="relative_noise"))
    relative = scans.relative_noise / np.exp(np.log(scans.relative_noise).mean())
    used = design.class_variance[design.scan_class] / design.scan_weight
    repeated = scans.participant_id.duplicated(keep=False)
    np.testing.assert_allclose(used[repeated], relative[repeated])
    assert np.abs(used / relative - 1).max() <= MAX_ERROR * 1.0000001
    np.testing.assert_allclose(used[~repeated], round_noise(relative[~repeated].to_numpy()))
