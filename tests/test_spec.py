"""Models are data: what they hold, that they survive a round trip, and that mistakes in them are named."""

import json
from dataclasses import FrozenInstanceError

import pytest

from bayesharm.errors import ModelError
from bayesharm.model.catalog import load_model, model_names
from bayesharm.model.spec import Family, Priors
from bayesharm.model.spec_rules import spec_from_dict

OWN = """
name = "mine"
title = "One effect for each scanner"
participants = "all"
requires_travelers = false
removed_effect = "site"
covariates = ["age"]

[priors]
slope_sd = 1.5

[[families]]
name = "site"
by = "scanner"
prior_median = 0.3
"""


def refused(message: str, table: dict) -> None:
    with pytest.raises(ModelError, match=f"(?s){message}") as caught:
        spec_from_dict(table)
    assert caught.value.got and caught.value.expected and caught.value.do


def test_the_models_that_come_with_the_package():
    found = {name: load_model(name) for name in ("cohort", "traveling", "traveling_and_cohort")}
    assert set(found) <= set(model_names())
    levels = {name: {family.name: family.by for family in spec.families} for name, spec in found.items()}
    site = {"participant": "participant", "site": "scanner", "disorder": "diagnosis"}
    bias = {"participant": "participant", "measurement": "scanner"}
    both = bias | {"sampling": "population", "disorder": "diagnosis"}
    assert levels == {"cohort": site, "traveling": bias, "traveling_and_cohort": both}
    assert {name for name, spec in found.items() if not spec.requires_travelers} == {"cohort"}
    assert {name for name, spec in found.items() if spec.participants == "travelers"} == {"traveling"}
    assert [family.name for family in found["traveling_and_cohort"].families if family.split] == ["sampling"]


def test_the_likelihood_is_one_that_exists_and_its_share_below_1():
    table = load_model("cohort").to_dict()
    assert not load_model("cohort").has_tails and spec_from_dict(table | {"likelihood": "student-t"}).has_tails
    refused("gaussian, student-t", table | {"likelihood": "t"})
    refused("below 1", table | {"priors": {"tail_share": 1.0}})


@pytest.mark.parametrize("name", model_names())
def test_a_model_is_named_after_its_folder_and_survives_json(name):
    spec = load_model(name)
    assert spec.name == name and spec.title
    assert spec_from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_a_model_cannot_be_changed_in_place():
    with pytest.raises(FrozenInstanceError):
        load_model("cohort").name = "other"


def test_a_model_of_ones_own_is_read_from_its_folder(tmp_path):
    (tmp_path / "model.toml").write_text(OWN, encoding="utf-8")
    spec = load_model(str(tmp_path))
    assert spec.families == (Family("site", "scanner", 0.3),)
    assert spec.covariates == ("age",) and spec.priors == Priors(slope_sd=1.5)
    assert (spec.noise_ratio, spec.reference) == ("scanner", "HC")


def test_an_unknown_model_is_answered_with_the_nearest_one():
    with pytest.raises(ModelError, match="no model 'travelling'") as caught:
        load_model("travelling")
    assert "'traveling'" in caught.value.do and "traveling_and_cohort" in caught.value.expected
    with pytest.raises(ModelError, match="no model 'zzz'") as caught:
        load_model("zzz")
    assert "bayesharm models" in caught.value.do


def test_broken_toml_is_named_with_its_file(tmp_path):
    (tmp_path / "model.toml").write_text("name = ", encoding="utf-8")
    with pytest.raises(ModelError, match="model.toml is not valid TOML"):
        load_model(str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"participants": "patients"}, "invalid 'participants'.*'patients'.*one of all, travelers"),
        ({"noise_ratio": "site"}, "invalid 'noise_ratio'.*homogeneous, scanner"),
        ({"bias_ratio": "site"}, "invalid 'bias_ratio'"),
        ({"feature_scaling": "each"}, "invalid 'feature_scaling'.*per_feature, common"),
        ({"noise_scale": 0.0}, "invalid 'noise_scale'.*a number above 0"),
        ({"noise_scale": "0.8"}, "malformed"),
        ({"noise_scale": float("nan")}, "invalid 'noise_scale'"),
        ({"removed_effect": "participant"}, "invalid 'removed_effect'.*a family by scanner"),
        ({"color": "red"}, "malformed.*color"),
        ({"families": [{"name": "measurement"}]}, "malformed.*by"),
        ({"priors": {"eta_sd": -1.0}}, "invalid 'eta_sd' of priors"),
        ({"priors": {"eta": 1.0}}, "malformed.*eta"),
    ],
)
def test_a_mistake_is_named(change, message):
    refused(message, load_model("traveling_and_cohort").to_dict() | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"by": "region"}, "invalid 'name' of family 'participant'.*for a family by a column, another name"),
        ({"name": "x", "by": ""}, "invalid 'by' of family 'x'.*a column of the scans table"),
        ({"name": "x", "by": "a × "}, "invalid 'by' of family 'x'.*a column of the scans table"),
        ({"nested_in": "site"}, "invalid 'nested_in' of family 'participant'.*a column as by"),
        (
            {"name": "x", "by": "coil", "nested_in": "coil"},
            "invalid 'nested_in' of family 'x'.*other columns than those of by",
        ),
        ({"slope_prior_median": 0.0}, "invalid 'slope_prior_median'.*above 0"),
        ({"scaled_by_gain": True}, "invalid 'scaled_by_gain'.*true only for families by a column"),
        ({"slope": "a/b"}, "invalid 'slope'.*without slash"),
        ({"name": "x", "by": "population", "slope": "age"}, "invalid 'slope' of family 'x'.*no slope in a family by pop"),
        (
            {"name": "x", "by": "scanner", "component_of": "measurement", "slope": "age"},
            "invalid 'slope' of family 'x'.*no slope in a family with component_of",
        ),
        ({"prior_median": -0.1}, "invalid 'prior_median' of family 'participant'.*above 0"),
        ({"split": True}, "invalid 'split'.*true only for populations"),
        ({"name": "noise"}, "invalid 'name' of family 'noise'"),
        ({"name": "all"}, "invalid 'name' of family 'all'"),
        ({"name": "a/b"}, "invalid 'name' of family 'a/b'.*without slash"),
        ({"name": ".."}, "invalid 'name'.*without slash"),
        ({"name": 5}, "invalid 'name'"),
        ({"name": "disorder"}, "invalid 'families'.*each name once"),
        ({"name": "disorder", "slope": "age"}, "invalid 'families'.*each name once"),
    ],
)
def test_a_mistake_in_a_family_is_named(change, message):
    table = load_model("traveling_and_cohort").to_dict()
    table["families"] = [table["families"][0] | change, *table["families"][1:]]
    refused(message, table)


def test_a_missing_key_is_named():
    table = load_model("cohort").to_dict()
    del table["removed_effect"]
    refused("malformed.*removed_effect", table)
    del table["families"]
    refused("malformed.*families", table)
