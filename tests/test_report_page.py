"""The report in a real browser, without a network: figures, choices, tables, keyboard, and names that would do harm."""

import csv
import os
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import report_of
from posteriors import add_sources, make_learned, make_posterior

from bayesharm.data.dataset import Dataset
from bayesharm.data.features import Features
from bayesharm.data.scans import read_scans
from bayesharm.model.catalog import load_model
from bayesharm.reporting.html import write_report
from bayesharm.reporting.run_view import RunView
from bayesharm.results.posterior import load_posterior

WAIT = 30_000  # milliseconds
WIDTHS = (1280, 400)
LONG = "n" * 300
DRIVER = ("[.WebGL", "Canvas2D: Multiple readback")  # remarks of the driver on its own speed
HOSTILE = ("<script>window.harm = 1</script>", '"><img src=x onerror="window.harm = 2">', "\u202egnp.evil \u05d0\u05d1")


@pytest.fixture(scope="module")
def browser():
    """Chromium of the system; without it the tests are skipped, and fail in CI, so that they cannot go unrun unseen."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        reason = "no browser: got no program chromium, expected one; install chromium and run the tests again"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--enable-unsafe-swiftshader"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Open a file without a network; at the end no request may have left it, and nothing may have gone wrong."""
    contexts, wrong = [], []

    def open_file(path, width=1280, theme="light", **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme, **options)
        contexts.append(context)
        context.set_offline(True)
        page = context.new_page()
        page.on("console", lambda message: None if message.text.startswith(DRIVER) else wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda request: None if request.url.startswith(("file:", "data:", "blob:")) else wrong.append(request.url),
        )
        page.goto(path.as_uri())
        if options.get("java_script_enabled", True):
            page.wait_for_selector("html[data-ready]", timeout=WAIT)
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert not wrong


@pytest.fixture(scope="module")
def small(small_run):
    return report_of(small_run)


@pytest.mark.parametrize(("width", "theme"), [(1280, "dark"), (400, "light")])
def test_every_figure_is_drawn_and_nothing_is_cut(small, open_page, width, theme):
    page = open_page(small, width, theme)
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    for folded in page.query_selector_all("details.folded > summary"):
        folded.click()
    page.wait_for_function("document.querySelectorAll('figure.chart:not([data-drawn])').length === 0", timeout=WAIT)
    sizes = page.eval_on_selector_all("figure.chart svg.marks", "all => all.map(each => each.getBoundingClientRect().width)")
    assert len(sizes) == page.locator("figure.chart").count() > 10 and min(sizes) > 0.5 * min(width, 600)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.click("#theme")
    page.wait_for_function(f"document.documentElement.dataset.theme !== '{theme}'")


def test_scanner_and_feature_are_chosen_everywhere(small, small_run, open_page):
    posterior = load_posterior(small_run)
    page = open_page(small)
    name, scanner = posterior.features[7], posterior.scanners[1]
    page.fill("#search", name)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert set(page.locator(".feature").all_inner_texts()) == {name}
    page.locator("figure[data-live=bias] details.behind summary").click()
    table = page.locator("figure[data-live=bias] details.behind tbody tr")
    row = table.filter(has_text=scanner).locator("td").nth(1)
    effect = posterior.effect("measurement").sel(scanner=scanner, feature=name)["mean"].item()
    value = float(row.get_attribute("data-v").split("|")[0])
    assert value == pytest.approx(effect / posterior.scales["feature_scale"].sel(feature=name).item(), rel=2e-3)
    page.select_option("#scanner", scanner)
    assert f"bias of {scanner}" in page.locator("#live-features thead").inner_text()
    faded = "figure[data-live=bias] svg .mark-symbol path"
    page.wait_for_function(f"[...document.querySelectorAll('{faded}')].some(e => e.getAttribute('opacity') === '0.12')")
    page.fill("#search", "no such name")
    assert page.locator("#found").inner_text() == "no such feature"


def test_tables_sort_and_are_saved(small, small_run, open_page):
    page = open_page(small)
    table = page.locator("section", has=page.locator("h2", has_text=re.compile("^Scanners$"))).locator("table.sortable").last
    header = table.locator("thead th", has_text="bias ± sd")
    for order in ("descending", "ascending"):
        header.locator("button").focus()
        page.keyboard.press("Enter")
        assert header.get_attribute("aria-sort") == order
        column = [c.get_attribute("data-v").split("|")[0] for c in table.locator("tbody tr td:nth-child(4)").all()]
        assert column == sorted(column, key=float, reverse=order == "descending")
    with page.expect_download() as download:
        table.locator("xpath=../following-sibling::p[1]//button[text()='CSV']").click()
    rows = list(csv.DictReader(download.value.path().read_text("utf-8-sig").splitlines()))
    posterior = load_posterior(small_run)
    assert {row["scanner"] for row in rows} == set(posterior.scanners) and {"bias", "bias_sd", "noise_ratio_q05"} <= set(
        rows[0]
    )
    page.get_by_label("Search in the table of features").fill(posterior.features[3])
    assert page.locator("#live-features tbody tr").count() == 1
    page.get_by_label("Search in the table of features").fill("")
    page.locator("#live-features thead button", has_text="feature").click()
    first = page.locator("#live-features tbody th").first.inner_text()
    assert first == sorted(posterior.features)[0]
    with page.expect_download() as download:
        page.locator("#live-features button", has_text="CSV").click()
    rows = pd.read_csv(download.value.path(), index_col="feature")
    mean = posterior.effect("measurement")["mean"].values / posterior.scales["feature_scale"].values
    bias = rows.loc[posterior.features, [f"bias_{name}" for name in posterior.scanners]]
    np.testing.assert_allclose(bias, mean.T, rtol=2e-3, atol=1e-4)


def test_the_page_says_the_same_without_a_script_and_in_print(small, open_page):
    page = open_page(small, java_script_enabled=False)
    assert page.locator("figure.chart img").count() > 10 and page.locator("#choices").is_hidden()
    sizes = page.eval_on_selector_all("figure.chart img", "all => all.map(each => each.naturalWidth)")
    assert min(sizes[:5]) > 300
    page = open_page(small)
    page.emulate_media(media="print")
    assert page.locator("aside").is_hidden() and page.locator("h1").is_visible()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A report whose scanners, people, features and notes have names that would do harm, or are far too long."""
    scanners = [HOSTILE[0], HOSTILE[1] + LONG, HOSTILE[2]]
    people = [f"{name}{k}" for k, name in enumerate((*HOSTILE, LONG))]
    features = (HOSTILE[0], HOSTILE[1], HOSTILE[2] + LONG, "=cmd|' /C calc'!A0")
    rows = [(person, scanner, scanners[0], "HC") for person in people for scanner in scanners]
    rows += [(f"once {k}", scanners[k % 3], scanners[k % 3], HOSTILE[k % 2] if k % 4 == 0 else "HC") for k in range(24)]
    table = pd.DataFrame(rows, columns=["participant_id", "scanner", "site", "diagnosis"])
    table.insert(0, "scan_id", [f"scan {k}" for k in range(len(table))])
    values = np.random.default_rng(0).normal(size=(len(table), len(features)))
    dataset = Dataset(read_scans(table), Features.from_array(values, features))
    learned = make_learned(dataset, load_model("traveling_and_cohort"))
    plain = add_sources(make_posterior("traveling_and_cohort", features, notes=[f"{HOSTILE[1]}: one scan only."]))
    order = dict(zip("ABC", sorted(scanners), strict=True))
    tree = xr.DataTree.from_dict({
        node.path: node.to_dataset(inherit=False).assign_coords(
            {dim: [order[name] for name in node[dim].values] for dim in ("scanner",) if dim in node.coords}
        )
        for node in plain.tree.subtree
    })  # fmt: skip
    tree["sufficient_statistics"] = learned.tree["sufficient_statistics"]
    posterior = type(plain)(tree, plain.run | {"findings": []})
    return write_report(RunView(posterior, folder=HOSTILE[1]), tmp_path_factory.mktemp("hostile") / "report.html"), posterior


@pytest.mark.parametrize("width", WIDTHS)
def test_names_do_no_harm(hostile, open_page, width):
    path, posterior = hostile
    page = open_page(path, width)
    for folded in page.query_selector_all("details.folded > summary"):
        folded.click()
    page.wait_for_function("document.querySelectorAll('figure.chart:not([data-drawn])').length === 0", timeout=WAIT)
    for k in range(3):
        page.select_option("#scanner", index=k + 1)
        page.fill("#search", posterior.features[k][:20])
        page.keyboard.press("Enter")
        page.locator("figure.chart svg.marks .mark-symbol path").nth(k).dispatch_event("pointermove", {"bubbles": True})
    assert page.evaluate("window.harm") is None and page.locator("img[src=x]").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#scanner option").nth(1).inner_text() in posterior.scanners
    with page.expect_download() as download:
        page.locator("#live-features button", has_text="CSV").click()
    assert "\n'=cmd" in download.value.path().read_text("utf-8-sig")  # a spreadsheet would run a formula


def test_the_largest_edges_turn_in_3d_on_demand(open_page, tmp_path):
    """A page in the page: it gets no rights, no network, and plain names."""
    nodes = (HOSTILE[1], "B </script><script>window.harm = 3</script>", "C", "D")
    edges = pd.DataFrame([(f"f{k}", nodes[k], nodes[k - 1]) for k in range(4)], columns=["feature", "node_a", "node_b"])
    places = pd.DataFrame({"region": nodes, "x": [-40, 40, 0, 20], "y": [-60, 0, 30, -30], "z": [10, 40, -10, 60]})
    posterior = add_sources(make_posterior("traveling_and_cohort", tuple(edges.feature)))
    page = open_page(write_report(RunView(posterior, edges, coordinates=places), tmp_path / "report.html"))
    figure = page.locator("figure", has_text="of the largest edges")
    assert figure.locator("img").evaluate("image => image.naturalWidth") > 1000 and not figure.locator("iframe").count()
    figure.locator("summary").click()
    scene = figure.locator("iframe").element_handle().content_frame()
    scene.wait_for_selector("#connectome-plot canvas", timeout=WAIT)
    labels = scene.evaluate("connectomeInfo.connectome.marker_labels")
    assert {"C", "D"} < set(labels) and not set("<>&") & set("".join(labels))
    assert scene.evaluate("window.harm") is None and page.evaluate("window.harm") is None
    figure.locator("iframe").scroll_into_view_if_needed()
    page.locator("#theme").click()
    scene.select_option("#select-view", "top")
