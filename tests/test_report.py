"""The report is one self-contained file that agrees with the tables."""

import base64
import json
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import report_of
from posteriors import add_sources, make_learned, make_posterior
from studies import random_study
from typer.testing import CliRunner

import bayesharm
from bayesharm.analysis.covariate_effects import covariate_effects
from bayesharm.analysis.variance_shares import variance_shares
from bayesharm.cli.app import app
from bayesharm.data.dataset import load_dataset
from bayesharm.errors import RunFolderError
from bayesharm.fitting.settings import Settings
from bayesharm.model.catalog import load_calibration, load_model
from bayesharm.model.configure import configure_model
from bayesharm.model.spec import Family
from bayesharm.model.template import model_toml
from bayesharm.reporting.before_after import BeforeAfter
from bayesharm.reporting.feature_data import MAX_BIASES, choose_features, pack_features
from bayesharm.reporting.html import render_report, write_report
from bayesharm.reporting.page import MAX_ROWS, safe, table_html, to_json
from bayesharm.reporting.people import PeopleMeans, people_means
from bayesharm.reporting.predictive_check import check_travelers, find_unusual
from bayesharm.reporting.run_view import RunView
from bayesharm.reporting.section import Table
from bayesharm.reporting.sections.commands import fit_command, harmonize_command, own_model, remarks_on_fit
from bayesharm.reporting.sections.contents import SECTIONS
from bayesharm.reporting.sections.methods import describe_methods, describe_reproduction
from bayesharm.reporting.sections.overview import describe_overview
from bayesharm.reporting.sections.reliability import describe_fit
from bayesharm.reporting.sections.scanners import describe_scanners, describe_similarity
from bayesharm.reporting.sections.sources import describe_contributions, describe_sources
from bayesharm.reporting.sections.study import describe_study
from bayesharm.reporting.words import verb
from bayesharm.results.posterior import load_posterior

NAMES = ("A/B", "A/C", "B/C", "C/D")
NODES = pd.DataFrame([(name, *name.split("/")) for name in NAMES], columns=["feature", "node_a", "node_b"])


class Page(HTMLParser):
    """Words, links and tags of a page; fails where tags do not close in order."""

    def __init__(self, page: str):
        super().__init__()
        self.words, self.links, self.open, self.titles, self.tags = [], [], [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        assert tag not in ("link", "iframe", "object", "base")
        self.tags.append(tag)
        if tag not in ("meta", "img", "br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)
            self.titles += [data] if self.open[-1:] == ["h2"] else []

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def found():
    return RunView(add_sources(make_posterior("traveling_and_cohort", NAMES)), NODES)


def test_nothing_outside_the_file_is_needed(found):
    html = render_report(found)
    page = Page(html)
    assert page.links and all(link.startswith(("#", "data:image/svg+xml,%3Csvg")) for link in page.links)
    assert "default-src 'none'" in html and "url(" not in html[: html.index("</style>")] and "@import" not in html
    assert len(html) < 3e6


def test_sections_say_what_this_run_says(found):
    page = Page(render_report(found))
    assert page.titles == [
        "What to do next", "Are the results reliable?", "Study", "Sources of variation", "Scanners", "Features",
        "Where the biases are large", "Regions", "Similarity of scanners", "Do the numbers depend on the priors?",
        "Methods and citation", "Reproduce", "Prior against posterior", "Convergence of each feature",
        "Contributions as in the 2019 study", "Glossary",
    ]  # fmt: skip
    text = page.text
    families, scanners = found.variance_components.families, found.scanners
    row = families.loc["disorder"]
    for part in (
        "Harmonization report: 30 scans, 3 scanners, 4 features", "form 2 separate groups", "All 4 features have converged",
        "C: one scan only.",
        "Disorder effects have a standard deviation of "
        f"{row.finite_sd:#.3g} ({row.finite_sd_q05:#.3g} to {row.finite_sd_q95:#.3g})",
        f"{scanners.index[0]} is furthest from the mean",
        f"Noise, the residual of the model, contributes {families.contribution['noise']:.1%}",
        "Partly: no traveler links C to the other scanners",
    ):  # fmt: skip
        assert part in text
    for table in (families["tau"], found.similarity.splits["distance"]):
        assert all(f"{value:#.3g}".removesuffix(".") in text for value in table)
    numbers = re.findall(r"Figure (\d+)\.", text)
    assert list(map(int, numbers)) == list(range(1, len(numbers) + 1))
    alternatives = re.findall(r'<div class="plot" role="img" aria-label="([^"]+)"', render_report(found))
    assert len(alternatives) == len(numbers) and len(set(alternatives)) >= len(alternatives) - 1  # one figure is there twice


def test_the_verdict_follows_the_run(found):
    overview = describe_overview(found)
    assert overview.level == "careful" and [light.level for light in overview.lights] == [
        "good",
        "careful",
        "careful",
        "careful",
        "good",
    ]
    preview = describe_overview(RunView(make_posterior(settings={"preview": True})))
    assert "preview" in preview.verdict and "without `--preview`" in preview.steps[0]
    failed = describe_overview(RunView(make_posterior(not_converged=("f0",))))
    assert failed.level == "bad" and "not converged" in failed.verdict
    weak = make_posterior()
    weak.tree["effects/measurement"]["mean"][:] *= 0.01
    said = describe_overview(RunView(weak))
    assert all("smaller than their uncertainty" in part for part in (said.verdict, " ".join(said.sentences)))
    posterior = make_posterior()
    posterior.tree["design"]["component"][:] = [0, 1, 2]
    assert describe_overview(RunView(posterior)).lights[1].level == "bad"
    site = describe_overview(RunView(make_posterior("cohort")))
    assert site.level == "bad" and "no sampling bias" in site.lights[1].answer and "traveling_and_cohort" in str(site.steps)
    adapted = make_posterior()
    adapted.tree["effects/measurement"]["contraction"][:] = [0.9, 0.8, np.nan]
    assert "Not of C" in describe_overview(RunView(adapted)).lights[2].answer


def test_the_calibration_of_a_model_is_told_where_it_was_tested(found):
    coverage = load_calibration(found.posterior.spec.name)["coverage"].values()
    said = describe_overview(found).lights[4].answer
    assert f"{min(coverage):.0%} to {max(coverage):.0%} of the true values" in said
    for settings, what in (({"preview": True}, "previews"), ({}, "the options of this fit")):
        posterior = make_posterior(settings=settings)
        if not settings:
            posterior.run["spec"]["feature_scaling"] = "common"
        light = describe_overview(RunView(posterior)).lights[4]
        assert light.level == "careful" and what in light.answer


def test_words_follow_the_numbers(found):
    told = " ".join(describe_sources(found).sentences)
    assert "well supported" in told and "not settled" not in told
    found.variance_components.larger[:] = 0.6
    assert "4 pairs of neighbors in the figure are in this order with probabilities of 60.0%" in " ".join(
        describe_sources(found).sentences
    )
    found.variance_components.larger[:] = 0.99
    found.variance_components.larger.loc["measurement", "participant"] = 0.6
    assert "is not settled (probability 60.0%)" in " ".join(describe_sources(found).sentences)
    told = " ".join(describe_scanners(found).sentences)
    assert "No scanner is clearly noisier" in told and "For C the estimate rests more on the prior" in told
    posterior = make_posterior()
    posterior.tree["hyper"]["noise_ratio"][..., 1] = 2.0
    told = " ".join(describe_scanners(RunView(posterior)).sentences)
    assert "Noisier than the average scanner: B (noise variance ratio 2.00)" in told
    found.similarity.splits["support"] = [0.4, 1.0]
    assert "The best supported group of scanners occurs in 40%" in " ".join(describe_similarity(found).sentences)
    found.similarity.splits["support"] = [0.97, 1.0]
    assert re.search(r"[ABC] stands apart from all others in 97%", " ".join(describe_similarity(found).sentences))


def test_scanners_and_diagnoses_are_compared_in_the_right_direction(found):
    found.variance_components.larger.loc["measurement", "disorder"] = 0.3
    found.variance_components.larger.loc["disorder", "measurement"] = 0.7
    assert re.search(r"effects of scanners are [^;]* diagnoses; the probability that they are larger is 30", " ".join(
        describe_sources(found).sentences))  # fmt: skip


def test_bias_variance_ratios_are_reported_where_they_are_estimated():
    posterior = make_posterior()
    plain = RunView(posterior)
    assert "kappa" not in str(plain.summary) and "bias_ratio" not in describe_scanners(plain).tables[0].frame
    draws = posterior.tree["hyper"]["bias_ratio"]
    middle = np.array([0.5, 4.0, 0.5])
    draws[:] = middle * np.random.default_rng(0).uniform(0.9, 1.1, draws.shape)
    found = RunView(posterior)
    assert "kappa" in str(found.summary)
    np.testing.assert_allclose(found.summary.scanners["bias_ratio"][["A", "B", "C"]], middle, rtol=0.02)
    told = describe_scanners(found)
    said = " ".join(told.sentences)
    assert re.search(r"Larger biases than the average scanner, over all features: B \(bias variance ratio [34]\.\d+\)", said)
    assert told.tables[0].frame["bias_ratio_q05"]["B"] > 3.5


def test_sources_that_are_part_of_the_noise_are_not_listed():
    view = RunView(make_posterior())
    told = [str(describe(view)) for describe in (describe_study, describe_methods)]
    assert all("differences between people" in text for text in told)
    del view.scales["participant"]  # as where nobody was scanned twice
    assert not any("differences between people" in str(describe(view)) for describe in (describe_study, describe_methods))


def test_covariates_have_their_effects():
    assert covariate_effects(make_posterior()) is None
    rng, spec = np.random.default_rng(0), replace(load_model("traveling"), covariates=("age", "sex"))
    scans = pd.DataFrame({"scan_id": [f"s{k}" for k in range(60)], "scanner": list("ABC") * 20})
    scans["participant_id"] = [f"p{k // 3}" for k in range(60)]
    scans["age"], scans["sex"] = rng.uniform(20, 80, 60).round(), [("F", "M")[k // 3 % 2] for k in range(60)]
    learned = make_learned(load_dataset(scans, rng.normal(size=(60, 4))), spec)
    posterior = make_posterior(settings={"preview": True}, spec=spec.to_dict())
    mean, sd = np.array([[0.1, -0.4, 0.2, 0.0], [1.0, 2.0, 3.0, 4.0]]), np.full((2, 4), 0.1)
    effect = learned.effect("covariate").assign_coords(feature=posterior.tree["scales"]["feature"])
    posterior.tree["effects/covariate"] = xr.DataTree(effect.assign(mean=effect["mean"] + mean, sd=effect["sd"] + sd))
    posterior.tree["sufficient_statistics"] = learned.tree["sufficient_statistics"]
    table = covariate_effects(posterior)
    np.testing.assert_allclose(table["mean"], mean.mean(1) / 2)  # a feature's sd is 2
    np.testing.assert_allclose(table["spread"], mean.std(1) / 2)
    assert list(table["clear"]) == [2, 4] and list(table["feature"]) == ["f1", "f3"]
    text = Page(render_report(RunView(posterior))).text
    assert "age: the 90% interval excludes 0 in 2 of 4 features; largest in f1, -0.40 ± 0.10." in text


def test_names_are_escaped():
    names = ("<script>alert(1)</script>", "a & b", "x", "</script><b>")
    posterior = add_sources(make_posterior(features=names, not_converged=names[:1], notes=["<b>bold</b>"]))
    html = render_report(RunView(posterior))
    page = Page(html)
    plain = Page(render_report(RunView(add_sources(make_posterior(not_converged=("f0",), notes=["bold"])))))
    assert page.tags == plain.tags and "<b>bold</b>" in page.text and "<script>alert(1)</script>" in page.text
    assert safe("\u202egod") == "[U+202E]god" and json.loads(to_json(["</script>\u2028"])) == ["</script>\u2028"]


def test_a_preview_is_labeled_and_lacks_variance_components():
    page = Page(render_report(RunView(make_posterior(settings={"preview": True}))))
    assert "This is a PREVIEW" in page.text and "The report has no intervals of variance components" in page.text
    assert "Contributions as in the 2019 study" not in page.titles and "Scanners" in page.titles


def test_cells_hold_a_number_with_its_interval():
    frame = pd.DataFrame({"size": [1.23456, np.nan], "size_q05": [1.0, np.nan], "size_q95": [1.5, np.nan],
                          "bias": [0.25, 0.1], "bias_sd": [0.0701, 0.2]}, pd.Index(["a", "<b>"], name="row"))  # fmt: skip
    html = table_html(Table(frame, "Sizes.", [False, True]))
    assert 'data-v="1.23456|1|1.5">1.23 <span class="i">(1.00 to 1.50)' in html.replace("(1 to", "(1.00 to")
    assert 'data-v="0.25|0.0701">0.250 ± 0.070<' in html and "<tr class=prior>" in html and "&lt;b&gt;" in html
    assert html.count('scope="col"') == 3 and 'data-n="size|size_q05|size_q95"' in html
    long = table_html(Table(pd.DataFrame({"x": np.arange(MAX_ROWS + 1)})))
    assert f"{MAX_ROWS:,} of {MAX_ROWS + 1:,} rows" in long and long.count("<tr") == MAX_ROWS + 1


def test_shares_add_up_and_are_the_variances_of_the_effects():
    posterior = make_posterior()
    shares = variance_shares(posterior)
    assert shares.sum() == pytest.approx(1) and list(shares.index) == list(shares.sort_values(ascending=False).index)
    effect, scales = posterior.effect("measurement"), posterior.scales
    sd = effect["sd"].values
    of_mean = np.einsum("if,ij,jf->f", sd / 3, effect["correlation"].values, sd / 3)  # of the mean over scans
    bias = ((effect["mean"].values ** 2 + sd**2).mean(0) - of_mean) / 4
    ratio = posterior.hyper["noise_ratio"].values.mean()
    of = {name: ((scales.sel(family=name)["mean"] ** 2 + scales.sel(family=name)["sd"] ** 2) / 4).values.mean()
          for name in ("noise", "participant")}  # fmt: skip
    expected = bias.mean() / of["noise"] / ratio
    assert shares["measurement"] / shares["noise"] == pytest.approx(expected)
    assert shares["participant"] / shares["noise"] == pytest.approx(of["participant"] / of["noise"] / ratio)


def test_means_of_people_are_those_of_their_scans(small_study, small_run):
    """The run alone gives them: the mean of each traveler on each scanner, and the differences between scanners."""
    posterior = load_posterior(small_run)
    people = people_means(posterior)
    scans, values = pd.read_csv(small_study / "scans.csv"), np.load(small_study / "features.npy").astype(float)
    unit, center = posterior.scales["feature_scale"].values, posterior.scales["center"].values
    table = pd.DataFrame((values - center) / unit).groupby([scans.participant_id, scans.scanner]).mean()
    n_scans = scans.groupby(["participant_id", "scanner"]).size()
    keys = [(people.people[p], people.scanners[s]) for p, s in zip(people.person, people.scanner, strict=True)]
    assert sorted(people.people) == [f"t{k}" for k in range(5)] and len(keys) == 15
    np.testing.assert_allclose(people.values, table.loc[keys], atol=1e-6)
    np.testing.assert_array_equal(people.n_scans, n_scans.loc[keys])
    result = BeforeAfter.of(posterior)
    before, after, noise = result.observed()
    spread = table.loc[keys].groupby("participant_id").var()
    assert before == pytest.approx(np.sqrt(spread.to_numpy().mean()), rel=1e-5)
    assert after < before and noise == pytest.approx(after, rel=0.1) and 0.5 < result.share_removed < 1


def linear_study(routes: list[str], excess: float = 1.0) -> BeforeAfter:
    """Travelers along routes, and biases computed exactly; the noise of `e` is `excess` times that of the model."""
    rng, n_features = np.random.default_rng(0), 2000
    person = np.repeat(np.arange(len(routes)), [len(route) for route in routes])
    scanner = np.array(["abcde".index(name) for name in "".join(routes)])
    n_scans, sigma, tau = rng.integers(1, 4, len(person)).astype(float), 0.3 * np.array([0.5, 1, 2, 1, 1.5]), 0.4
    people, scanners, noise = np.eye(len(routes))[person], np.eye(5)[scanner], sigma[scanner] / n_scans
    x, prior = np.hstack([people, scanners]), np.array([1e6] * len(routes) + [tau] * 5)
    real = noise * np.where(scanner == 4, excess, 1)
    y = x @ (rng.normal(size=(x.shape[1], n_features)) * np.sqrt(np.minimum(prior, 1))[:, None])
    y += rng.normal(size=y.shape) * np.sqrt(real)[:, None]
    covariance = np.linalg.inv(x.T / noise @ x + np.diag(1 / prior))
    center = np.hstack([np.zeros((5, len(routes))), np.eye(5) - 1 / 5])
    bias, of_bias = center @ covariance @ (x.T / noise) @ y, center @ covariance @ center.T
    sd = np.sqrt(np.diag(of_bias))
    means = PeopleMeans([*map(str, range(len(routes)))], [*"abcde"], person, scanner, n_scans, n_scans[:, None], y)
    columns = (np.repeat(values[:, None], n_features, axis=1) for values in (sd, sigma))
    return BeforeAfter(bias, next(columns), of_bias / np.outer(sd, sd), next(columns), means)


def test_travelers_differ_as_noise_predicts_however_few_visit_a_scanner():
    """One to eight travelers on a scanner: the estimates of the biases take up a third of the noise, or a tenth."""
    routes = ["ab", *["ac"] * 2, *["ad"] * 3, *["ae"] * 8, "bcd", "bcd"]
    result = linear_study(routes)
    _, after, noise = result.observed()
    assert after == pytest.approx(noise, rel=0.01)
    table = check_travelers(result)
    np.testing.assert_allclose(table["ratio"], 1, atol=0.05)
    assert find_unusual(table) == ([], [])
    assert "e" in find_unusual(check_travelers(linear_study(routes, excess=3)))[0]


def test_the_noise_of_a_scan_has_the_ratio_of_its_feature():
    posterior = make_posterior()
    scales = posterior.scales
    expected = BeforeAfter.of(posterior).noise
    square = scales["mean"].sel(family="noise").values ** 2 + scales["sd"].sel(family="noise").values ** 2
    ratio = posterior.hyper["noise_ratio"].values.mean((0, 1))
    np.testing.assert_allclose(expected, ratio[:, None] * square / 4)
    own = scales.isel(family=[0]).assign_coords(
        family=["noise_ratio_B"], term=("family", ["noise_ratio"]), group=("family", ["B"])
    )
    own["mean"][:], own["sd"][:] = 1.5, 0.2
    posterior.tree["scales"] = xr.DataTree(xr.concat([scales, own], "family", data_vars="minimal"))
    expected = ratio[:, None] * scales["mean"].sel(family="noise").values ** 2 / 4
    np.testing.assert_allclose(BeforeAfter.of(posterior).noise, expected * np.array([[1], [1.5**2], [1]]))


def test_the_page_has_the_numbers_of_each_feature(small_run):
    posterior = load_posterior(small_run)
    result = BeforeAfter.of(posterior)
    packed = pack_features(posterior, result, "units")
    chosen = choose_features(result)
    assert packed["names"] == [posterior.features[k] for k in chosen] and len(chosen) == len(posterior.features)
    mean, sd = (np.frombuffer(base64.b64decode(packed[name]), "<f2").reshape(len(chosen), -1) for name in ("mean", "sd"))
    np.testing.assert_allclose(mean, result.bias[:, chosen].T, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(sd, result.sd[:, chosen].T, rtol=1e-3)
    people = packed["people"]
    lines = np.frombuffer(base64.b64decode(people["values"]), "<f2").reshape(people["n_features"], -1)
    np.testing.assert_allclose(lines, result.people.values[:, chosen].T, rtol=1e-3, atol=1e-3)
    many = BeforeAfter(*(np.ones((50, 20_000)) for _ in range(4)), None)
    assert len(choose_features(many)) == MAX_BIASES // 200


def test_commands_repeat_the_run(small_study, small_run):
    view = RunView(load_posterior(small_run), folder="my run")
    files = [str(small_study / name) for name in ("scans.csv", "features.npy")]
    assert shlex.split(fit_command(view)) == [
        "bayesharm", "fit", *files, "--model", "traveling_and_cohort", "--keep-draws", "thin", "--seed", "1", "--out",
        "run_again",
    ]  # fmt: skip
    assert shlex.split(harmonize_command(view))[:5] == ["bayesharm", "harmonize", "my run", *files]
    plain = RunView(
        make_posterior(data={"scans": "a b.csv", "features": None, "select": ["x*"], "columns": {"scanner": "mri"}})
    )
    assert "'a b.csv' --features 'x*' --scanner mri" in harmonize_command(plain)


PACKAGE = {
    "traveling": {},
    "traveling_and_cohort": {"covariates": "age,sex", "formula": "bs(age, df=4)", "gain": "scanner", "reference": "MDD"},
    "cohort": {"noise_ratio": "scanner-feature", "noise_weight": "volumes", "feature_scaling": "common"},
    "protocol": {"protocol": "vendor,field", "likelihood": "student-t"},
    "longitudinal": {"time": "years", "covariates": "sex"},
}


@pytest.mark.parametrize("model", PACKAGE)
def test_the_fit_command_has_the_options_of_the_model(model):
    """The options of the command turn the model of the package into that of the run."""
    scans, lists = random_study(0), ("covariates", "protocol")

    def configure(name, options):
        return configure_model(name, scans, **{k: v.split(",") if k in lists else v for k, v in options.items()})

    spec = configure(model, PACKAGE[model])
    view = RunView(make_posterior("traveling", spec=spec.to_dict()))
    words = shlex.split(fit_command(view))
    pairs = [(word[2:].replace("-", "_"), value) for word, value in zip(words, words[1:], strict=False) if word[:2] == "--"]
    given = dict(pairs)
    options = {name: value for name, value in given.items() if name not in ("model", "seed", "out")}
    assert given["model"] == model and set(options) == set(PACKAGE[model]) and not own_model(view)
    assert configure(model, options) == spec


def test_the_fit_command_reads_the_data_and_infers_as_the_fit_did():
    data = {
        "scans": "s.csv", "features": "xcp", "columns": {}, "select": None, "missing": "drop-scans", "bad_features": "error",
        "transform": "fisher-z", "atlas": "Gordon", "entities": {"space": "fsLR"}, "label_column": "id",
        "missing_files": "drop",
    }  # fmt: skip
    findings = [{"code": code, "accepted": code != "age"} for code in ("identical-scans", "age", "identical-scans")]
    posterior = make_posterior(data=data, findings=findings, settings={"chains": 4, "keep_draws": 50, "max_rhat": 1.05})
    reading = "s.csv xcp --label-column id --missing-files drop --entity space=fsLR"
    reading = reading.replace("xcp ", "xcp --atlas Gordon ")
    assert fit_command(RunView(posterior)) == (
        f"bayesharm fit {reading} --model traveling --missing drop-scans --transform fisher-z --accept identical-scans "
        "--seed 1 --out run_again"
    )
    assert f"{reading} --out" in harmonize_command(RunView(posterior))
    assert remarks_on_fit(RunView(posterior)) == (
        "Only bayesharm.fit in Python takes these settings of the fit: keep_draws=50, max_rhat=1.05.",
    )
    assert "stand for them" in remarks_on_fit(RunView(make_posterior()))[0]
    tails = {"spec": replace(load_model("traveling"), likelihood="student-t").to_dict()}
    usual, more = (
        Settings.from_options(each, has_tails=True).to_dict() for each in ({}, {"target_ess": 200, "keep_draws": "thin"})
    )
    assert "student-t --seed" in fit_command(RunView(make_posterior(settings=usual, **tails)))
    told = fit_command(RunView(make_posterior(settings=more, **tails)))
    assert "--draws 80 --target-ess 200 --keep-draws thin" in told


def own_folder(path, **changes):
    """The folder of a user's model: devices, whose effects depend on age, and operators."""
    families = (
        Family("subject", "participant", 0.6), Family("device", "scanner", 0.3, slope="age"),
        Family("operator", "operator", 0.2),
    )  # fmt: skip
    spec = replace(load_model("cohort"), name="mine", families=families, removed_effect="device", gain="scanner", **changes)
    (path / "model.toml").write_text(model_toml(spec, "cohort"))
    return str(path), spec


def own_view(path, **changes):
    folder, spec = own_folder(path, **changes)
    posterior = make_posterior(folder)
    result = BeforeAfter.of(posterior)
    posterior.tree["sufficient_statistics"] = xr.DataTree(
        xr.Dataset(attrs={"slopes": [{"family": "device", "column": "age", "center": 47.5, "sd": 10.0}]})
    )
    view = RunView(posterior)
    view.__dict__["before_after"] = result
    return view, spec


def test_a_model_of_the_user_is_printed_and_has_plain_names(tmp_path):
    view, spec = own_view(tmp_path, covariates=("age",), formula="bs(age)")
    section = describe_reproduction(view)
    command, text = section.code
    assert "--model model_of_this_run --seed" in command and "model_of_this_run/model.toml" in section.caveats[0]
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "model.toml").write_text(text)
    assert load_model(str(tmp_path / "again")) == spec
    told = " ".join([*describe_study(view).sentences, *describe_scanners(view).sentences])
    assert "subject effects, device effects (by scanner), operator effects, and noise" in told
    assert "Device effects depend on age, with an intercept and a slope" in told and "its device effect is" in told
    changed = replace(load_model("traveling"), noise_scale=0.5).to_dict()  # a name of the package, another model
    assert "--model model_of_this_run" in fit_command(RunView(make_posterior(spec=changed)))


def test_a_model_without_sampling_bias_removes_differences_between_people_whatever_its_names(tmp_path):
    view, _ = own_view(tmp_path)
    overview = describe_overview(view)
    assert overview.lights[1].level == "bad" and "no sampling bias" in overview.lights[1].answer
    assert "device effects: differences between scanners together with" in overview.sentences[0]
    assert "The device effects depend on age" in overview.sentences[-1] and "its mean, 47.5;" in overview.sentences[-1]
    other, _ = own_view(tmp_path, participants="travelers")
    assert describe_overview(other).lights[1].level == "careful"


def test_the_check_of_travelers_says_what_it_subtracts_and_leaves_out(tmp_path):
    own = own_view(tmp_path)[0]
    own.__dict__["before_after"] = linear_study(["ab", "ac", "bc"] * 2)
    told = " ".join(describe_fit(own).sentences)
    assert "subtracts the bias of each scanner at the mean age, not its change with age." in told
    assert "leaves out changes with age, gains of the scanners and operator effects: where" in told
    plain = RunView(make_posterior())
    plain.__dict__["before_after"] = own.before_after
    assert not re.search("subtracts|leaves out", " ".join(describe_fit(plain).sentences))


def test_noise_with_tails_is_that_of_good_values(found):
    assert "good values" not in " ".join(describe_sources(found).sentences)
    tails = make_posterior("traveling_and_cohort", spec=replace(found.posterior.spec, likelihood="student-t").to_dict())
    assert "those of good values" in " ".join(describe_sources(RunView(add_sources(tails))).sentences)
    assert "with the residuals in the tails." in describe_contributions(RunView(add_sources(tails))).sentences[-1]


def test_equal_numbers_of_the_first_screen_are_all_shown(found):
    share = found.before_after.share_removed
    found.posterior.tree["effects/measurement"]["contraction"][:] = share
    shown = [number for number, _ in describe_overview(found).numbers]
    assert shown.count(f"{share:.0%}") == 2 and Page(render_report(found)).text.count(f"{share:.0%} of the") >= 2


def test_only_scanners_fade_when_the_reader_chooses_a_scanner(found):
    """A source or region is no scanner: its figure stays as it is."""
    sources, scanners = describe_sources(found).figures[1], describe_scanners(found).figures[1]
    layers = {k: chart.spec["layer"][-1]["encoding"] for k, chart in {"source": sources, "scanner": scanners}.items()}
    assert "opacity" in layers["scanner"] and "opacity" not in layers["source"]
    assert all(layer["y"]["field"] == name and layer["tooltip"][0]["title"] == name for name, layer in layers.items())


def test_verbs_agree_with_the_sources(found):
    found.posterior.tree["effects/measurement"]["mean"][:] *= 10
    assert describe_sources(found).sentences[0].startswith("Measurement bias is the largest source of variation")
    assert [verb(words) for words in ("sampling bias of HC", "site effects", "Noise")] == ["is", "are", "is"]


def test_a_file_that_is_there_stays(found, tmp_path):
    out = tmp_path / "report.html"
    assert bayesharm.write_report(found, out) == out and out.read_text() == render_report(found)  # the same again
    out.write_text("mine")
    with pytest.raises(RunFolderError, match="cannot be written"):
        write_report(found, out)
    assert out.read_text() == "mine"


def test_the_commands_write_it(small_run, tmp_path):
    out = tmp_path / "report.html"
    result = CliRunner().invoke(app, ["report", str(small_run), "--out", str(out), "-q"])
    assert result.exit_code == 0 and f"Report: {out}" in result.output
    assert out.read_text() == report_of(small_run).read_text()  # by fit --report
    text = Page(out.read_text()).text
    posterior = load_posterior(small_run)
    assert f"{len(posterior.scanners)} scanners" in text and all(name in text for name in posterior.scanners)
    for command in (["report", str(small_run), "--out"], ["fit", "scans.csv", "--out", str(tmp_path / "run"), "--report"]):
        for wrong, message in ((out, "exists already"), (tmp_path / "report.pdf", "name ending in .html")):
            result = CliRunner().invoke(app, [*command, str(wrong)])
            assert result.exit_code == 2 and message in result.stderr


def test_every_section_can_be_left_out_but_says_something():
    view = RunView(make_posterior(settings={"preview": True}))
    sections = [section for describe in SECTIONS if (section := describe(view))]
    assert len(sections) >= 4 and all(section.sentences or section.caveats for section in sections)


def test_the_demo_goes_on_without_the_library_of_charts(tmp_path, monkeypatch):
    import sys

    from bayesharm.cli.demo.result import write_demo_report

    monkeypatch.setitem(sys.modules, "vl_convert", None)
    told = write_demo_report(make_posterior(), tmp_path / "run", tmp_path / "report.html")
    assert told.startswith("no report.") and "pip install" in told and not list(tmp_path.iterdir())
