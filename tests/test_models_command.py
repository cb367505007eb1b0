"""The commands `models …`: lists and cards, a new model, all mistakes of a model.toml, and the densities of a model."""

import os
import re
import tomllib
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
from studies import extend
from typer.testing import CliRunner

import bayesharm
from bayesharm.cli.app import app
from bayesharm.data.dataset import load_dataset
from bayesharm.errors import ModelError
from bayesharm.model.catalog import load_model, model_card, model_names
from bayesharm.model.design import build_design
from bayesharm.model.spec import Family, ModelSpec, Priors
from bayesharm.model.spec_rules import spec_from_dict
from bayesharm.model.template import card, model_toml
from bayesharm.model_check import agreement
from bayesharm.model_check import check as checks
from bayesharm.model_check.check import check_model, find_remarks
from bayesharm.model_check.suited_study import suited_scans


def run(*args, code: int = 0):
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def folder(here) -> Path:
    """The folder of a model that is a copy of `traveling_and_cohort`."""
    run("models", "new", "mine", "--from", "traveling_and_cohort")
    return here / "mine"


def load_toml(text: str) -> ModelSpec:
    return spec_from_dict(tomllib.loads(text))


def edit(folder: Path, *changes: tuple[str, str]) -> None:
    path = folder / "model.toml"
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)


# Lists and cards --------------------------------------------------------------------------------------------------------


def test_former_ways_to_list_and_show_models_still_work(folder):
    assert run("models").output == run("models", "list").output
    assert run("models", "cohort").output == run("models", "show", "cohort").output
    assert run("models", "mine").output.startswith("# mine: ")
    (folder / "card.md").unlink()
    assert "has no card" in run("models", "mine", code=2).stderr
    assert "did you mean 'cohort'" in run("models", "show", "cohorts", code=2).stderr


# A new model ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", model_names())
def test_a_new_model_is_a_copy_with_a_comment_on_every_key(here, name):
    said = run("models", "new", "my_model", "--from", name).output
    assert load_model("my_model") == replace(load_model(name), name="my_model")
    assert sorted(path.name for path in (here / "my_model").iterdir()) == ["card.md", "model.toml"]
    lines = (here / "my_model" / "model.toml").read_text().splitlines()
    assert max(map(len, lines)) <= 125
    for key in {field.name for owner in (ModelSpec, Priors) for field in fields(owner)} - {"families", "priors"}:
        place = next(n for n, line in enumerate(lines) if line.startswith(f"{key} = "))
        assert lines[place - 1].startswith("# "), key
    for field in fields(Family):
        assert any(line.startswith(f"#   {field.name}: ") for line in lines), field.name
    assert "bayesharm models check my_model" in said and "--model my_model" in said


def test_the_card_of_a_new_model_has_equations_and_families(folder):
    card = model_card("mine")
    sections = re.findall("^## (.*)$", model_card("cohort"), re.MULTILINE)
    assert re.findall("^## (.*)$", card, re.MULTILINE) == sections
    for family in load_model("mine").families:
        assert f"+ {family.name}[{family.by}(n),f]" in card and f"tau_{family.name}[f]²" in card
        assert f"| `{family.name}` | `{family.by}` | {family.prior_median} |" in card
    assert card.count("To be filled in") == 6


def test_a_model_of_ones_own_is_the_start_of_another(folder, here):
    edit(folder, ("noise_scale = 0.8", "noise_scale = 0.7"))
    run("models", "new", "theirs", "--from", "mine", "--out", "deep/down")
    assert load_model("deep/down") == replace(load_model("mine"), name="theirs")


@pytest.mark.parametrize("name", ["", "a b", "a/b", "..", "2nd", "cohort", "auto", "list", "check"])
def test_bad_names_are_refused(here, name):
    error = run("models", "new", name, "--from", "cohort", "--out", "new", code=2).stderr
    assert "cannot have this name" in error and "traveling_and_cohort, auto, list, show, new, check" in error
    assert not (here / "new").exists()


def test_folders_and_sources_that_cannot_be_used_are_refused(folder, here):
    before = (folder / "model.toml").read_bytes()
    assert "exists already" in run("models", "new", "mine", "--from", "cohort", code=2).stderr
    assert (folder / "model.toml").read_bytes() == before
    assert "no model 'cohorts'" in run("models", "new", "other", "--from", "cohorts", code=2).stderr
    assert "cannot be made" in run("models", "new", "other", "--from", "cohort", "--out", "mine/card.md/x", code=2).stderr
    assert [path.name for path in here.iterdir()] == ["mine"]


# Mistakes in a model.toml -----------------------------------------------------------------------------------------------


def problems_of(folder: Path) -> str:
    """The numbered output of the command."""
    with pytest.raises(ModelError) as caught:
        load_model(str(folder))
    error = run("models", "check", folder, code=2).stderr
    assert error.strip() == f"Error: {caught.value}"
    return error


def test_all_mistakes_are_named_together(folder):
    edit(
        folder,
        ('participants = "all"', 'participants = "patients"'),
        ("requires_travelers = true", 'requires_travelers = "yes"'),
        ("noise_scale = 0.8", "noise_scale = true\ncolour = 1"),
        ("omega_sd = 0.5", "omega_sd = 0"),
        ('name = "measurement"', 'name = "mean"'),
        ("prior_median = 0.2\nsplit = true", "prior_medain = 0.2\nsplit = true"),
        ('by = "diagnosis"', 'by = ["dx"]'),
    )
    error = problems_of(folder)
    assert f"{folder / 'model.toml'} has 9 problems." in error
    for what, do in (
        ("invalid 'participants'", "correct its model.toml"),
        ("'requires_travelers' has a value of the wrong kind.", "correct the value"),
        ("'noise_scale' has a value of the wrong kind.", "correct the value"),
        ("'colour' is unknown.", "remove it"),
        ("invalid 'omega_sd' of priors", "correct its model.toml"),
        ("invalid 'name' of family 'mean'", "correct its model.toml"),
        ("'prior_median' of family 'sampling' is missing.", "add prior_median"),
        ("'prior_medain' of family 'sampling' is unknown.", "did you mean 'prior_median'?"),
        ("'by' of family 'disorder' has a value of the wrong kind.", "correct the value"),
    ):
        (found,) = [part for part in re.split(r"\n(?=\d+\. )", error) if what in part]
        assert all(f"{part}: " in found for part in ("got", "expected")) and f"do this: {do}" in found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "is not valid TOML"),
        ("\xff", "is not valid TOML"),
        ("", "6 problems[\\s\\S]*'families' is missing[\\s\\S]*'removed_effect' is missing"),
        ("families = 3", "'families' has a value of the wrong kind[\\s\\S]*\\[\\[families\\]\\]"),
        ("families = [3]\npriors = []", "'priors' has a value of the wrong kind[\\s\\S]*\\[priors\\]"),
        ("covariates = [1]", "a list of texts"),
    ],
)
def test_files_of_another_kind_are_refused(folder, text, message):
    (folder / "model.toml").write_bytes(text.encode("latin-1"))
    assert re.search(message, problems_of(folder))


def test_one_mistake_is_an_error_of_its_own(folder):
    edit(folder, ('removed_effect = "measurement"', 'removed_effect = "sampling"'))
    said = problems_of(folder)
    assert "invalid 'removed_effect'.\n  got: 'sampling'\n  expected: the name of a family by scanner, that is" in said


# Densities --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def n_densities() -> int:
    """Densities that are compared with the explicit one; in CI, PyMC must be among them."""
    has_pymc = find_spec("pymc") is not None
    assert has_pymc or not os.environ.get("CI"), "needs PyMC: pip install 'bayesharm[pymc]'"
    return 1 + has_pymc


@pytest.mark.parametrize(
    "model",
    [*model_names(), replace(extend("everything"), name="everything")],
    ids=lambda model: getattr(model, "name", model),
)
def test_the_three_densities_of_a_model_agree(model, n_densities):
    """Also of a model with families by columns, slopes, gains, known precision and noise ratios of each feature."""
    found = check_model(model)
    assert found.agrees and "The densities agree" in str(found)
    assert len(found.densities) == 2 * n_densities and (found.densities.difference < 1e-10).all()
    assert (found.families.levels > 0).all() and not [remark for remark in found.remarks if "levels" in remark]


def test_the_check_of_heavy_tails_says_what_it_compared():
    spec, families = load_model("cohort"), pd.DataFrame({"levels": [3]}, index=["site"])
    said = set(find_remarks(replace(spec, likelihood="student-t"), families)) - set(find_remarks(spec, families))
    assert len(said) == 1 and "collapsed = explicit was compared under the Gaussian likelihood" in said.pop()


def test_the_check_says_that_it_does_not_compare_columns_with_a_table():
    spec, families = load_model("cohort"), pd.DataFrame({"levels": [3]}, index=["site"])
    own = replace(spec, families=(*spec.families, Family("op", "operator", 0.1, nested_in="scaner", slope="age")))
    assert not any("not compared" in remark for remark in find_remarks(spec, families))
    (told,) = set(find_remarks(own, families)) - set(find_remarks(spec, families))
    assert "('scaner', 'operator' and 'age') are simulated, not compared with your table" in told
    assert "bayesharm check SCANS --model FOLDER" in told


def test_the_simulated_study_has_the_columns_of_a_model():
    families = [Family(f"f{k}", f"column{k}", 0.1, component_of="measurement") for k in range(9)]
    spec = load_model("protocol")
    kept = tuple(family for family in spec.families if not family.is_factor)
    spec = replace(spec, families=(*families, *kept), covariates=("age", "height"), reference="Control")
    scans = suited_scans(spec)
    design = build_design(scans, spec)  # which refuses factors that are constant, or divide the scanners alike
    assert {family.name for family in spec.families} <= set(design.families) and len(design.covariates) == 2
    assert scans.diagnosis.unique().tolist() == ["Control", "MDD"]
    assert load_dataset(scans, scans[["age", "height"]].to_numpy()).scans.scanner.nunique() == 5


@pytest.mark.parametrize("name", ["families", "slopes", "precision", "gain", "feature noise", "everything"])
def test_the_simulated_study_suits_models_of_every_kind(name):
    spec = extend(name)
    for participants in ("all", "travelers"):
        scans = suited_scans(each := replace(spec, participants=participants))
        assert build_design(scans, each).spec == each
    text = card(spec)
    for family in spec.slopes:
        assert f"{family.slope_name}[{family.by}(n),f]·({family.slope}[n] − " in text
    assert ("g[scanner(n)]·participant[" in text) == (spec.gain == "scanner")
    assert load_toml(model_toml(spec, "another")) == spec


def test_a_check_says_what_it_found(folder, monkeypatch):
    monkeypatch.setattr(checks, "LIMIT", 1e-300)  # below what rounding allows
    monkeypatch.setattr(agreement, "find_spec", lambda name: None)
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    edit(folder, ("covariates = []", 'covariates = ["age"]'))
    result = run("models", "check", "mine", code=1)
    for part in ("Model mine", "measurement", "collapsed = explicit", "some missing", "The densities do not agree"):
        assert part in result.output
    assert "PyMC = explicit" not in result.output and "pip install 'bayesharm[pymc]'" in " ".join(result.output.split())


def test_a_new_model_is_fitted_by_its_folder(folder, small_study):
    edit(folder, ("prior_median = 0.3", "prior_median = 0.4"))
    dataset = load_dataset(small_study / "scans.csv", small_study / "features.npy")
    found = bayesharm.check(dataset, str(folder))
    assert found.model == "mine" and not found.is_refused
