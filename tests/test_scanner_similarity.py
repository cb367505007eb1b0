"""Distances between scanners against draws of their exact joint posterior, feature by feature."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from posteriors import make_posterior
from scipy.cluster.hierarchy import average
from scipy.spatial.distance import squareform

from bayesharm.analysis.scanner_similarity import scanner_similarity
from bayesharm.analysis.units import OWN_UNITS, SD_UNITS
from bayesharm.conditional.identifiability import identify
from bayesharm.errors import RunFolderError
from bayesharm.model.catalog import load_model
from bayesharm.model.design import build_design
from bayesharm.results.posterior import load_posterior

N_FEATURES, N_DRAWS = 300, 2000


def posterior_of(scanners, mean, sd, correlation):
    found = make_posterior(features=tuple(f"f{k:03d}" for k in range(mean.shape[1])))
    coords = {"scanner": np.array(list(scanners), dtype=object), "feature": np.array(found.features, dtype=object)}
    found.tree["effects/measurement"] = xr.DataTree(xr.Dataset({
        "mean": (("scanner", "feature"), mean), "sd": (("scanner", "feature"), sd),
        "correlation": (("scanner", "other"), correlation),
    }, coords=coords))  # fmt: skip
    return found


def hub_and_spoke() -> pd.DataFrame:
    """Six travelers on two or three of five scanners, twice; A and B share most of theirs."""
    seen = {"t0": "AB", "t1": "AB", "t2": "AB", "t3": "BC", "t4": "CDE", "t5": "CD"}
    rows = [(person, scanner) for person, scanners in seen.items() for scanner in scanners for _ in range(2)]
    scans = pd.DataFrame(rows, columns=["participant_id", "scanner"])
    scans["scan_id"] = [f"s{k}" for k in range(len(scans))]
    return scans.assign(site=scans.scanner, diagnosis="HC", traveling=True)


@pytest.fixture(scope="module")
def exact():
    """Posterior mean and covariance of five scanners' biases in features whose scales differ, from dense matrices."""
    design = build_design(hub_and_spoke(), load_model("traveling"))
    rng = np.random.default_rng(3)
    x = design.matrix.toarray()
    own = [design.column_labels.index(f"measurement:{name}") for name in design.scanners]
    typical = np.log(design.scale_medians)
    means, covariances = [], []
    for _ in range(N_FEATURES):
        scale = np.exp(typical + rng.normal(0, 0.3, len(typical)))
        prior = np.where(design.column_scale < 0, design.column_sd, scale[design.column_scale])
        ratio = np.exp(rng.normal(0, 0.2, len(design.scanners)))[design.class_scanner][design.scan_class]
        weight = 1 / (scale[0] ** 2 * ratio)
        values = x @ rng.normal(0, np.where(design.column_scale < 0, 0, prior)) + rng.normal(0, weight**-0.5)
        covariance = np.linalg.inv((x.T * weight) @ x + np.diag(prior**-2.0))
        away = np.eye(len(own)) - 1 / len(own)
        means.append(away @ (covariance @ x.T @ (weight * values))[own])
        covariances.append(away @ covariance[np.ix_(own, own)] @ away)
    mean, covariance = np.stack(means, axis=1), np.stack(covariances)
    sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)).T
    root = np.stack([vectors * np.sqrt(np.maximum(values, 0)) for values, vectors in map(np.linalg.eigh, covariance)])
    draws = mean.T + (root @ rng.normal(size=(N_DRAWS, N_FEATURES, len(own), 1)))[..., 0]
    away = draws[..., :, None] - draws[..., None, :]
    return SimpleNamespace(
        mean=mean, sd=sd, draws=draws, names=design.scanners, correlation=identify(design, typical).correlation,
        distance=np.sqrt((away**2).mean(1)),
        matrices=np.stack([np.corrcoef(draw.T) for draw in draws]),
    )  # fmt: skip


def test_distances_and_correlations_are_those_of_the_joint_posterior(exact):
    """The correlation of errors is taken at typical scales though scales differ by a third and noise by scanner."""
    found = scanner_similarity(posterior_of(exact.names, exact.mean, exact.sd, exact.correlation))
    off = ~np.eye(len(exact.names), dtype=bool)
    for name, draws in (("distance", exact.distance), ("correlation", exact.matrices)):
        spread = draws.std(0)[off]
        for column, expected in (
            (name, draws.mean(0)), *((f"{name}_q{q:02d}", np.quantile(draws, q / 100, axis=0)) for q in (5, 95))
        ):  # fmt: skip
            assert (np.abs(found.matrix(column).to_numpy()[off] - expected[off]) / spread).max() < 0.5
    np.testing.assert_allclose(found.matrix("distance").to_numpy()[off], exact.distance.mean(0)[off], rtol=0.01)
    of_means = np.sqrt(((exact.mean[:, None] - exact.mean) ** 2).mean(2))
    np.testing.assert_allclose(found.matrix("distance_of_means").to_numpy()[off], of_means[off])
    assert (found.pairs["distance"] > found.pairs["distance_of_means"]).all()


def test_distances_are_less_certain_where_errors_of_features_are_correlated(exact):
    """Errors that are the same in all features do not average out."""
    independent = posterior_of(exact.names, exact.mean, exact.sd, exact.correlation)
    same = posterior_of(exact.names, exact.mean, exact.sd, exact.correlation)
    patterns = same.tree["error_patterns"].to_dataset()
    one = np.zeros((N_FEATURES, N_FEATURES), np.float32)
    one[0] = 1
    same.tree["error_patterns"] = xr.DataTree(patterns.assign(error_pattern=(("entry", "feature"), one)))

    def spread(posterior):
        pairs = scanner_similarity(posterior).pairs
        return pairs["distance_q95"] - pairs["distance_q05"]

    assert (spread(same) > 3 * spread(independent)).all()


def test_scanners_must_not_be_taken_as_independent(exact):
    """A and B, compared in the same people, are known better against one another than against the others."""
    n = len(exact.names)
    wrong = scanner_similarity(posterior_of(exact.names, exact.mean, exact.sd, np.eye(n))).matrix("distance")
    off = ~np.eye(n, dtype=bool)
    assert np.abs(wrong.to_numpy()[off] / exact.distance.mean(0)[off] - 1).max() > 0.05


def test_the_tree_and_its_support_are_those_of_the_draws(exact):
    found = scanner_similarity(posterior_of(exact.names, exact.mean, exact.sd, exact.correlation))
    expected = average(squareform(exact.distance.mean(0), checks=False))
    np.testing.assert_array_equal(found.linkage[:, :2], expected[:, :2])
    assert found.splits["scanners"].iloc[-1] == ", ".join(found.scanners) and found.splits["support"].iloc[-1] == 1
    first = sorted(int(k) for k in expected[0, :2])
    closest = [set(average(squareform(draw, checks=False))[0, :2].astype(int)) == set(first) for draw in exact.distance]
    # another pair may be closer yet, and the group be there too
    assert found.splits["support"].iloc[0] >= np.mean(closest) - 4.3 * 0.5 / np.sqrt(400)
    assert found.splits["distance"].is_monotonic_increasing


def test_what_is_plain_is_found():
    rng = np.random.default_rng(5)
    kinds = rng.normal(size=(2, 200))
    mean = np.stack([kinds[0], kinds[0], kinds[1], kinds[1]]) + 0.2 * rng.normal(size=(4, 200))
    mean -= mean.mean(0)
    found = scanner_similarity(posterior_of("KLMN", mean, np.full(mean.shape, 0.1), np.eye(4) - (1 - np.eye(4)) / 3))
    assert list(found.splits["scanners"][:2].sort_values()) == ["K, L", "M, N"]
    assert (found.splits["support"] == 1).all()
    assert found.matrix("correlation").loc["K", "L"] > 0.8 > 0 > found.matrix("correlation").loc["K", "M"]
    assert "K, L" in str(found) and "100%" in str(found)


def test_features_of_different_kinds_are_compared_in_their_sd():
    found = make_posterior()
    scales = found.tree["scales"].to_dataset()
    found.tree["scales"] = xr.DataTree(scales.assign(feature_scale=("feature", np.array([1.0, 1.0, 1.0, 1000.0]))))
    other = scanner_similarity(found)
    assert other.about["units"] == SD_UNITS and scanner_similarity(make_posterior()).about["units"] == OWN_UNITS
    of_means = np.sqrt((3 * 10.0**2 + 0.01**2) / 4)
    assert other.matrix("distance_of_means").loc["A", "B"] == pytest.approx(of_means)


def test_a_feature_without_a_result_is_left_out():
    found = make_posterior()
    found.tree["effects/measurement"]["mean"][:, 1] = np.nan
    assert scanner_similarity(found).about["n_features"] == 3


def test_two_scanners_and_one_feature_are_enough():
    opposite = np.array([[1.0, -1.0], [-1.0, 1.0]])
    found = scanner_similarity(posterior_of("AB", np.array([[1.0], [-1.0]]), np.full((2, 1), 0.1), opposite))
    assert found.pairs["distance"].iloc[0] == pytest.approx(2, abs=0.05) and found.pairs["correlation"].isna().all()
    assert len(found.splits) == 1 and "A, B" not in str(found)


def test_one_scanner_cannot_be_compared():
    one = posterior_of("A", np.zeros((1, 3)), np.zeros((1, 3)), np.array([[np.nan]]))
    with pytest.raises(RunFolderError, match=r"cannot be compared[\s\S]*at least two scanners"):
        scanner_similarity(one)


def test_a_run_has_what_is_needed_and_its_tables_are_written(small_run, tmp_path):
    posterior = load_posterior(small_run)
    found = scanner_similarity(posterior)
    assert set(found.scanners) == set(posterior.scanners)
    correlation = posterior.effect("measurement")["correlation"].values
    np.testing.assert_allclose(np.diagonal(correlation), 1)
    np.testing.assert_allclose(correlation, correlation.T)
    assert (np.linalg.eigvalsh(correlation) > -1e-9).all()
    assert found.pairs.equals(scanner_similarity(posterior).pairs)  # the same draws again
    assert {path.name for path in found.write(tmp_path)} == {"pairs.csv", "splits.csv"}
    assert len(pd.read_csv(tmp_path / "pairs.csv")) == 20
    assert found.pairs[["distance_q05", "distance", "distance_q95"]].T.diff().iloc[1:].gt(0).to_numpy().all()
