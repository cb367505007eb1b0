"""The report is one self-contained file that agrees with the tables."""

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from posteriors import add_sources, make_posterior
from typer.testing import CliRunner

from bayesharm.cli.app import app
from bayesharm.errors import RunFolderError
from bayesharm.reporting.html import render_report, write_report
from bayesharm.reporting.plots import RunView
from bayesharm.reporting.sections import SECTIONS, describe_scanners, describe_similarity, describe_sources
from bayesharm.results.posterior import load_posterior

NAMES = ("A/B", "A/C", "B/C", "C/D")
NODES = pd.DataFrame([(name, *name.split("/")) for name in NAMES], columns=["feature", "node_a", "node_b"])


class Page(HTMLParser):
    """Words, links and tags of a page; fails where tags do not close in order."""

    def __init__(self, page: str):
        super().__init__()
        self.words, self.links, self.open, self.titles = [], [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        assert tag not in ("script", "link", "iframe", "object")
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
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
    assert page.links and all(link.startswith(("#s", "data:image/png;base64,")) for link in page.links)
    assert "url(" not in html and "@import" not in html and "http" not in re.sub('base64,[^"]*', "", html)
    assert len(html) < 3e6


def test_sections_say_what_this_run_says(found):
    page = Page(render_report(found))
    assert page.titles == [
        "Study", "Are the results reliable?", "Sources of variation", "Contributions", "Scanners",
        "Similarity of scanners", "Scale of sampling bias", "Regions",
    ]  # fmt: skip
    text = page.text
    families = found.variance_components.families
    row = families.loc["disorder"]
    for part in (
        "30 scans from 3 scanners, 4 features", "form 2 separate groups", "All 4 features have converged",
        "C: one scan only.",
        "The largest source of variation is disorder effects: its effects have a standard deviation of "
        f"{row.finite_sd:#.3g} ({row.finite_sd_q05:#.3g} to {row.finite_sd_q95:#.3g})",
        f"{found.scanners.index[0]} is furthest from the mean",
        f"Noise, the residual of the model, contributes {families.contribution['noise']:.1%}",
    ):  # fmt: skip
        assert part in text
    for table in (families["tau"], found.scanners["rms"], found.similarity.splits["distance"]):
        assert all(f"{value:#.3g}".removesuffix(".") in text for value in table)


def test_words_follow_the_numbers(found):
    told = " ".join(describe_sources(found).sentences)
    assert "is certain" in told and "not settled" not in told
    found.variance_components.larger[:] = 0.6
    assert "is not settled (probability 60.0%)" in " ".join(describe_sources(found).sentences)
    told = " ".join(describe_scanners(found).sentences)
    assert "No scanner is clearly noisier" in told and "For C the estimate of the bias rests more on the prior" in told
    posterior = make_posterior()
    posterior.tree["hyper"]["noise_ratio"][..., 1] = 2.0
    told = " ".join(describe_scanners(RunView(posterior)).sentences)
    assert "Noisier than the average scanner: B (noise variance ratio 2.00)" in told
    found.similarity.splits["support"] = [0.4, 1.0]
    assert "No group of scanners occurs in more than 40%" in " ".join(describe_similarity(found).sentences)
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
    assert "kappa" not in str(plain.summary) and "bias_ratio" not in describe_scanners(plain).table
    draws = posterior.tree["hyper"]["bias_ratio"]
    middle = np.array([0.5, 4.0, 0.5])
    draws[:] = middle * np.random.default_rng(0).uniform(0.9, 1.1, draws.shape)
    found = RunView(posterior)
    assert "kappa" in str(found.summary)
    np.testing.assert_allclose(found.summary.scanners["bias_ratio"][["A", "B", "C"]], middle, rtol=0.02)
    told = describe_scanners(found)
    said = " ".join(told.sentences)
    assert re.search(r"Larger biases than the average scanner, over all features: B \(bias variance ratio [34]\.\d+\)", said)
    assert told.table["bias_ratio_q05"]["B"] > 3.5


def test_names_are_escaped():
    names = ("<script>alert(1)</script>", "a & b", "x", "y")
    posterior = add_sources(make_posterior(features=names, not_converged=names[:1], notes=["<b>bold</b>"]))
    html = render_report(RunView(posterior))
    assert "<script>" not in html and "<b>" not in html
    assert "<script>alert(1)</script>" in Page(html).text and "<b>bold</b>" in Page(html).text
    nodes = pd.DataFrame({"feature": names, "node_a": "<i>Left</i>", "node_b": "R&L"})
    html = render_report(RunView(posterior, nodes))
    assert "<i>" not in html and "<i>Left</i>" in Page(html).text


def test_a_preview_is_labeled_and_lacks_variance_components():
    page = Page(render_report(RunView(make_posterior(settings={"preview": True}))))
    assert "This is a PREVIEW" in page.text and "The report has no variance components" in page.text
    assert "Sources of variation" not in page.titles and "Scanners" in page.titles


def test_a_long_table_is_cut_and_says_so():
    names = tuple(f"{k:02d}" for k in range(40))
    nodes = pd.DataFrame({"feature": names, "node_a": [f"r{name}" for name in names], "node_b": "hub"})
    text = Page(render_report(RunView(add_sources(make_posterior(features=names)), nodes))).text
    assert "25 of 41 rows" in text


def test_a_file_that_is_there_stays(found, tmp_path):
    out = tmp_path / "report.html"
    assert write_report(found, out) == out and out.read_text() == render_report(found)  # the same again
    out.write_text("mine")
    with pytest.raises(RunFolderError, match="cannot be written"):
        write_report(found, out)
    assert out.read_text() == "mine"


def test_the_command_writes_it(small_run, tmp_path):
    out = tmp_path / "report.html"
    result = CliRunner().invoke(app, ["report", str(small_run), "--out", str(out), "-q"])
    assert result.exit_code == 0 and f"Report: {out}" in result.output
    text = Page(out.read_text()).text
    posterior = load_posterior(small_run)
    assert f"{len(posterior.scanners)} scanners" in text and all(name in text for name in posterior.scanners)
    assert np.isfinite(RunView(posterior).scanners.to_numpy()).all()
    for wrong, message in ((out, "exists already"), (tmp_path / "report.pdf", "name ending in .html")):
        result = CliRunner().invoke(app, ["report", str(small_run), "--out", str(wrong)])
        assert result.exit_code == 2 and message in result.stderr


def test_every_section_can_be_left_out_but_says_something():
    view = RunView(make_posterior(settings={"preview": True}))
    sections = [section for describe in SECTIONS if (section := describe(view))]
    assert len(sections) >= 4 and all(section.sentences for section in sections)


def test_the_demo_goes_on_without_matplotlib(tmp_path, monkeypatch):
    import sys

    from bayesharm.cli.demo.result import write_demo_report

    parts = ("bayesharm.reporting.plots", "bayesharm.reporting.html", "bayesharm.reporting.sections")
    for name in [name for name in sys.modules if name.startswith(parts)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    told = write_demo_report(make_posterior(), tmp_path / "report.html")
    assert told.startswith("no report.") and "pip install" in told and not list(tmp_path.iterdir())
