"""Figures: their artists are read back and compared with the tables."""

import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.figure import Figure
from posteriors import add_sources, make_posterior
from typer.testing import CliRunner

from bayesharm.analysis.variance_shares import variance_shares
from bayesharm.cli.app import app
from bayesharm.errors import BayesharmError, InputError, RunFolderError
from bayesharm.reporting.plots import PLOTS, RunView, draw_plot, possible_plots
from bayesharm.reporting.plots.style import color_limits, draw_matrix, new_figure
from bayesharm.reporting.sections.sources import describe_ranking
from bayesharm.results.posterior import load_posterior

NAMES = ("A/B", "A/C", "B/C", "C/D", "A/D", "B/D")
NODES = pd.DataFrame([(name, *name.split("/")) for name in NAMES], columns=["feature", "node_a", "node_b"])
NETWORKS = pd.DataFrame({"region": list("ABCD"), "network": ["visual", "visual", "motor", "motor"]})
PLACES = pd.DataFrame({"region": list("DCBA"), "x": [-40, 40, -30, 30], "y": [-60, -50, 20, 30], "z": [0, 10, 20, 40]})


@pytest.fixture
def found():
    return RunView(add_sources(make_posterior("traveling_and_cohort", NAMES)), NODES, NETWORKS, PLACES)


def intervals(ax) -> list[tuple[float, float, float]]:
    """Low, high and place of each interval."""
    return [(*part[:, 0], part[0, 1]) for lines in ax.collections if hasattr(lines, "get_segments")
            for part in lines.get_segments()]  # fmt: skip


def labels(ax) -> list[str]:
    return [text.get_text() for text in ax.get_yticklabels()]


def test_each_plot_is_a_figure_and_says_what_its_axes_are(found):
    assert set(possible_plots(found)) == set(PLOTS) - {"ranking"}
    for name in possible_plots(found):
        figure = draw_plot(name, found)
        assert isinstance(figure, Figure)
        figure.canvas.draw()
        text = " ".join(part.get_text() for part in figure.findobj(lambda artist: hasattr(artist, "get_text")))
        assert "units" in text or name in ("order", "scales", "contributions")
        assert "PREVIEW" not in text


def test_scanners_are_in_order_with_their_intervals(found):
    bias, noise = draw_plot("scanners", found).axes
    assert labels(bias) == list(found.scanners.index) and found.scanners.rms.is_monotonic_decreasing
    assert bias.get_ylim()[0] > bias.get_ylim()[1] and bias.get_xlim()[0] == 0
    for ax, name in ((bias, "rms"), (noise, "noise_ratio")):
        expected = found.scanners[[f"{name}_q05", f"{name}_q95"]].assign(place=range(3)).to_numpy()
        np.testing.assert_allclose(intervals(ax)[:3], expected)
        points = next(part for part in ax.collections if not hasattr(part, "get_segments"))
        np.testing.assert_allclose(points.get_offsets(), np.stack([found.scanners[name], range(3)], axis=1))
        opaque = points.get_facecolors()[:, 3] == 1
        assert dict(zip(found.scanners.index, opaque, strict=True))["C"] == (name == "noise_ratio") and sum(opaque) >= 2


def test_gains_have_a_panel_of_their_own():
    posterior = make_posterior()
    draws = posterior.tree["hyper"]["gain"]
    draws[:] = np.array([0.7, 1.0, 1.4]) * np.random.default_rng(0).uniform(0.95, 1.05, draws.shape)
    view = RunView(posterior)
    _, noise, gain = draw_plot("scanners", view).axes
    for ax, name in ((noise, "noise_ratio"), (gain, "gain")):
        expected = view.scanners[[f"{name}_q05", f"{name}_q95"]].assign(place=range(3)).to_numpy()
        np.testing.assert_allclose(intervals(ax)[:3], expected)


def test_sources_are_those_of_the_table(found):
    (ax,) = draw_plot("sources", found).axes
    table = found.variance_components.families.sort_values("finite_sd", ascending=False)
    points = {line.get_gid(): line.get_xdata()[0] for line in ax.lines if line.get_gid() in table.index}
    assert points == pytest.approx(table["finite_sd"].to_dict())
    assert [name.replace("\n", "_") for name in labels(ax)] == list(table.index)
    assert [bar.get_width() for bar in ax.patches] == pytest.approx(list(table["finite_sd"]))


def test_the_bar_is_of_100_percent(found):
    (ax,) = draw_plot("contributions", found).axes
    widths = np.array([bar.get_width() for bar in ax.patches])
    np.testing.assert_allclose(widths, 100 * variance_shares(found.posterior))
    told = [text.get_text() for text in ax.figure.legends[0].get_texts()]
    assert widths.sum() == pytest.approx(100) and all(
        f"{width:.1f}%" in text for width, text in zip(widths, told, strict=True)
    )


def test_noise_with_tails_is_that_of_good_values(found):
    assert "tails" not in draw_plot("contributions", found).axes[0].get_xlabel()
    spec = replace(found.posterior.spec, likelihood="student-t").to_dict()
    heavy = RunView(add_sources(make_posterior("traveling_and_cohort", NAMES, spec=spec)))
    for name in ("sources", "contributions"):
        assert "good values, without the tails" in draw_plot(name, heavy).axes[0].get_xlabel()


def test_probabilities_are_where_they_belong(found):
    ax = draw_plot("order", found).axes[0]
    drawn = pd.DataFrame(ax.images[0].get_array().filled(np.nan), labels(ax), [t.get_text() for t in ax.get_xticklabels()])
    assert drawn.loc["disorder", "noise"] == pytest.approx(found.variance_components.larger.loc["disorder", "noise"])
    assert (
        drawn.index.tolist() == found.variance_components.families.sort_values("finite_sd", ascending=False).index.tolist()
    )
    assert np.isnan(np.diagonal(drawn)).all()


def test_matrices_hold_bias_and_distance(found):
    ax = draw_plot("bias", found).axes[0]
    shown = pd.DataFrame(np.asarray(ax.images[0].get_array()), labels(ax), [t.get_text() for t in ax.get_xticklabels()])
    assert shown.loc["A", "A B"] == -10 and shown.loc["C", "C D"] == 10  # words that tell features apart
    low, high = ax.images[0].get_clim()
    assert low == -high  # white is no bias
    ax = draw_plot("distance", found).axes[0]
    drawn = pd.DataFrame(ax.images[0].get_array().filled(np.nan), labels(ax), [t.get_text() for t in ax.get_xticklabels()])
    expected = found.similarity.matrix("distance")
    pd.testing.assert_frame_equal(drawn.loc[expected.index, expected.columns], expected, check_names=False)
    assert ax.images[0].get_clim() == pytest.approx((np.nanmin(expected), np.nanmax(expected)))


def test_of_many_features_those_with_the_largest_bias_are_shown():
    posterior = make_posterior(features=tuple(f"f{k:03d}" for k in range(400)))
    mean = posterior.tree["effects/measurement"]["mean"]
    mean[:] = np.outer([-1, 0, 1], np.arange(400.0))
    ax = draw_plot("bias", posterior).axes[0]
    assert ax.images[0].get_array().shape == (3, 300) and "300 of 400 features with the largest" in ax.get_title(loc="left")
    assert np.abs(ax.images[0].get_array()).max(0).min() == 100 and not len(ax.get_xticks())


def test_the_tree_has_its_groups_with_their_support(found):
    (ax,) = draw_plot("dendrogram", found).axes
    tree = found.similarity.linkage
    np.testing.assert_allclose(sorted(max(line.get_xdata()) for line in ax.lines), np.sort(tree[:, 2]))
    assert {text.get_text() for text in ax.texts} == {
        f"{share:.0%}" for share in found.similarity.splits.support[:-1] if share >= 0.5
    }
    assert sorted(labels(ax)) == found.similarity.scanners and ax.get_xlim()[0] == 0


def test_a_tree_of_like_distances_says_that_its_axis_is_cut():
    posterior = make_posterior(features=tuple(f"f{k:03d}" for k in range(500)))
    rng = np.random.default_rng(0)
    posterior.tree["effects/measurement"]["mean"][:] = rng.normal(size=(3, 500))
    posterior.tree["effects/measurement"]["sd"][:] = 0.01
    (ax,) = draw_plot("dendrogram", posterior).axes
    assert ax.get_xlim()[0] > 0 and "DOES NOT START AT 0" in ax.get_xlabel()


def test_two_scanners_make_a_tree():
    posterior = make_posterior()
    for node in ("effects/measurement", "hyper", "design"):
        posterior.tree[node] = xr.DataTree(posterior.tree[node].to_dataset().isel(scanner=slice(2)))
    effect = posterior.tree["effects/measurement"].to_dataset().isel(other=slice(2))
    posterior.tree["effects/measurement"] = xr.DataTree(effect.assign(mean=effect["mean"] + [[5], [-5]]))
    (ax,) = draw_plot("dendrogram", posterior).axes
    assert labels(ax) == ["A", "B"] and not ax.texts and ax.get_xlim()[0] == 0


def test_scales_have_prior_and_posterior(found):
    typical, spread = draw_plot("scales", found).axes
    assert [name.replace("\n", "_") for name in labels(typical)] == ["sampling"]
    prior = next(line for line in typical.lines if len(line.get_xdata()) > 100)
    place = prior.get_xdata()[np.argmin(prior.get_ydata())]
    assert place == pytest.approx(0.2, rel=0.02)  # the prior median of model.toml; up is less
    row = found.summary.hyper.loc["sampling"]
    assert typical.texts[0].get_text().startswith(f"{row.scale:#.2g} ({row.scale_q05:#.2g} to")
    assert spread.texts[0].get_text().startswith(f"{row.spread:#.2g} (")
    assert len(draw_plot("scales", found, families=["noise", "disorder"]).axes[0].get_yticks()) == 2
    with pytest.raises(RunFolderError, match=r"no scale 'site'[\s\S]*disorder"):
        draw_plot("scales", found, families=["site"])
    assert len(draw_plot("scales", make_posterior()).axes[0].get_yticks()) == 3  # no sampling: all


def test_regions_and_networks_are_those_of_the_table(found):
    (ax,) = draw_plot("regions", found).axes
    table = found.variance_components.regions.xs("measurement", level="family").sort_values("finite_sd", ascending=False)
    assert labels(ax) == list(table.index)
    np.testing.assert_allclose([part[:2] for part in intervals(ax)][:4], table[["finite_sd_q05", "finite_sd_q95"]])
    assert "largest disorder" in draw_plot("regions", found, family="disorder").axes[0].get_title(loc="left")
    ax = draw_plot("networks", found).axes[0]
    drawn = pd.DataFrame(np.asarray(ax.images[0].get_array()), labels(ax), [t.get_text() for t in ax.get_xticklabels()])
    pairs = found.variance_components.networks["finite_sd"].xs("measurement", level="family")
    assert drawn.loc["visual", "motor"] == drawn.loc["motor", "visual"] == pytest.approx(pairs["motor", "visual"])


def test_a_family_that_is_not_there_is_named(found):
    with pytest.raises(InputError, match=r"no 'site' effects[\s\S]*'disorder'"):
        draw_plot("regions", found, family="site")


def test_brains_have_each_region_where_it_is(found):
    assert list(found.region_coordinates.loc["A"]) == [30, 40 - 10, 40] and set(found.region_coordinates.index) == set(
        "ABCD"
    )
    figure = draw_plot("brain", found)
    drawn = [part for ax in figure.axes for part in ax.collections if len(getattr(part, "get_offsets", list)()) == 4]
    views = [{tuple(place) for place in part.get_offsets()} for part in drawn]
    x, y, z = found.region_coordinates.to_numpy(float).T
    assert views == [set(zip(one, other, strict=True)) for one, other in ((y, z), (x, z), (x, y))]
    assert "units" in figure.texts[1].get_text()


def test_plots_can_share_a_figure(found):
    left, right = new_figure(4).subplots(1, 2)
    assert draw_plot("sources", found, ax=left) is draw_plot("dendrogram", found, ax=right) is left.figure
    assert left.get_title(loc="left") == "Size of each source of variation" and right.lines


def test_notebooks_show_a_figure(found):
    """In a kernel of its own, as a notebook has one: with a picture, and without remarks of progress bars."""
    figure = draw_plot("contributions", found)
    assert figure._repr_png_().startswith(b"\x89PNG")
    code = """
import sys, types
import IPython
sys.modules["ipykernel.zmqshell"] = types.ModuleType("ipykernel.zmqshell")  # by which tqdm knows a notebook
IPython.get_ipython = lambda: None
import bayesharm.inference.joint
assert "tqdm.notebook" in sys.modules
"""
    done = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "IProgress" not in done.stderr, done.stderr


def test_a_preview_says_so_and_has_no_variance_components():
    found = RunView(make_posterior(settings={"preview": True}))
    assert possible_plots(found) == ["contributions", "scales", "scanners", "bias", "distance", "dendrogram"]
    for name in possible_plots(found):
        assert "PREVIEW" in draw_plot(name, found).get_suptitle()
    with pytest.raises(RunFolderError, match="a preview"):
        draw_plot("sources", found)


def test_a_ranking_is_drawn_where_there_is_one(found):
    with pytest.raises(RunFolderError, match=r"no protocol factors to rank[\s\S]*traveling_and_cohort"):
        draw_plot("ranking", found)
    table = pd.DataFrame({"rms": [3.0, 2.0], "rms_q05": [2.5, 1.0], "rms_q95": [3.5, 2.8], "rank_1": [0.9, 0.1],
                          "rank_2": [0.1, 0.9]}, index=["disorder", "participant"])  # fmt: skip
    object.__setattr__(found.variance_components, "ranking", table)
    sizes, places, _ = draw_plot("ranking", found).axes
    np.testing.assert_allclose(places.images[0].get_array(), table[["rank_1", "rank_2"]])
    assert [text.get_text() for text in places.texts] == ["0.90", "0.10", "0.10", "0.90"]
    assert labels(sizes) == ["disorder", "participant"]
    np.testing.assert_allclose(intervals(sizes)[:2], table[["rms_q05", "rms_q95"]].assign(place=[0, 1]))
    assert "ranking" in possible_plots(found)
    assert "disorder" in draw_plot("regions", found).axes[0].get_title(loc="left")  # the largest part
    told = " ".join(describe_ranking(found).sentences)
    assert "is disorder: 3.00 (2.50 to 3.50)" in told and "is likely (probability 90.0%)" in told


def test_numbers_are_left_out_where_they_could_not_be_read():
    for n, shown in ((16, 256), (17, 0)):
        ax = new_figure(4).subplots()
        draw_matrix(ax, pd.DataFrame(np.ones((n, n))), "x", "{:.0f}".format)
        assert len(ax.texts) == shown
    assert color_limits(np.array([0.99, 1.0, 1.01])) == pytest.approx((0.9, 1.1))


@pytest.mark.parametrize(("tables", "name", "message"), [
    ((), "regions", r"the regions that[\s\S]*--edge-table"),
    ((NODES,), "networks", r"the networks that[\s\S]*--networks"),
    ((NODES,), "brain", r"coordinates of its regions[\s\S]*--coordinates"),
    ((NODES, None, PLACES.drop(columns="z")), "brain", r"coordinates lacks 'z'"),
    ((NODES, None, PLACES.iloc[1:]), "connectome", r"no coordinates[\s\S]*'D'"),
    ((NODES, None, PLACES.assign(x="left")), "brain", r"no coordinates[\s\S]*numbers"),
    ((None, None, PLACES), "brain", r"coordinates without edge_table"),
    ((), "scaners", r"no plot 'scaners'[\s\S]*scanners"),
])  # fmt: skip
def test_what_is_missing_is_asked_for(tables, name, message):
    with pytest.raises(InputError, match=message):
        draw_plot(name, RunView(add_sources(make_posterior(features=NAMES)), *tables))


def test_without_matplotlib_or_nilearn_the_install_command_is_told(found, monkeypatch):
    code = "import sys; sys.modules['matplotlib'] = None\nimport bayesharm.reporting.plots"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Plots need matplotlib" in told.stderr and "pip install 'bayesharm[plots]'" in told.stderr
    monkeypatch.setitem(sys.modules, "nilearn", None)
    with pytest.raises(BayesharmError, match=r"need nilearn[\s\S]*pip install 'bayesharm\[plots\]'"):
        draw_plot("brain", found)


def test_the_command_draws_one_or_all(small_run, tmp_path):
    def run(*args):
        return CliRunner().invoke(app, ["plot", str(small_run), *map(str, args)])

    for suffix, head in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        out = tmp_path / f"scanners{suffix}"
        result = run("--what", "scanners", "--out", out)
        assert result.exit_code == 0 and str(out) in result.output and out.read_bytes().startswith(head)
    assert run("--what", "bias", "--out", tmp_path / "bias.png", "-q").output == ""
    before = out.read_bytes()
    for args, message in (
        (("scanners", "--out", out), "exists already"),
        (("scaners", "--out", tmp_path / "x.png"), "no plot 'scaners'"),
        (("scanners", "--out", tmp_path / "x.gif"), "name ending in .png"),
        (("scanners", "--out", tmp_path / "nowhere" / "x.png"), "no folder"),
        (("all", "--out", tmp_path), "already holds"),
    ):
        result = run("--what", *args)
        assert result.exit_code == 2 and message in result.stderr
    assert out.read_bytes() == before and not (tmp_path / "x.png").exists()
    names = load_posterior(small_run).features
    pd.DataFrame({"feature": names, "node_a": "a", "node_b": ["b", "c"] * (len(names) // 2)}).to_csv(tmp_path / "n.csv")
    assert run("--what", "all", "--edge-table", tmp_path / "n.csv", "--out", tmp_path / "all").exit_code == 0
    drawn = {path.stem for path in (tmp_path / "all").iterdir()}
    assert drawn == set(PLOTS) - {"ranking", "networks", "brain", "connectome"}


def test_help_lists_every_plot():
    text = CliRunner().invoke(app, ["plot", "--help"], env={"COLUMNS": "80", "TERM": "dumb"}).output
    assert set(PLOTS) <= set(re.findall(r"\w+", text))
