"""The point estimates of the 2019 study against their definition, and against the Gaussian model whose mean they are."""

import numpy as np
import pandas as pd
import pytest

from bayesharm import InputError, load_dataset, simulate_srpbs
from bayesharm.baselines import yamashita2019

N_FEATURES = 5
FAMILIES = ["participant", "measurement", "sampling_HC", "sampling_MDD", "sampling_SCZ", "disorder"]


@pytest.fixture(scope="module")
def study():
    return simulate_srpbs(N_FEATURES, seed=2)


@pytest.fixture(scope="module")
def found(study):
    return yamashita2019(load_dataset(study.scans, study.features))


def indicators(scans: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """0/1 columns of each family, written apart from the package's design."""
    travels = scans.groupby("participant_id").scanner.transform("nunique") > 1
    population = (scans.site + "/" + scans.diagnosis).mask(travels)
    columns = {
        "participant": pd.get_dummies(scans.participant_id.where(travels)),
        "measurement": pd.get_dummies(scans.scanner),
    }
    for diagnosis in ("HC", "MDD", "SCZ"):
        columns[f"sampling_{diagnosis}"] = pd.get_dummies(population.where(scans.diagnosis == diagnosis))
    columns["disorder"] = pd.get_dummies(scans.diagnosis).drop(columns="HC")
    return columns


def test_it_is_the_posterior_mean_of_the_gaussian_model_with_these_constraints(study, found):
    """Effects are N(0, sd²) given that some add up to 0: conditioned by the dense covariance of scans, and no equations."""
    columns, ridge, noise = indicators(study.scans), 14.0, 0.3
    design = np.column_stack([np.ones(len(study.scans)), *columns.values()]).astype(float)
    owner = np.repeat(["mean", *columns], [1, *(table.shape[1] for table in columns.values())])
    constraints = np.array([owner == name for name in FAMILIES[:-1]], float)
    prior = noise**2 / ridge * np.eye(len(owner))
    gain = prior @ constraints.T @ np.linalg.inv(constraints @ prior @ constraints.T)
    prior -= gain @ constraints @ prior
    covariance = design @ prior @ design.T + noise**2 * np.eye(len(design))
    expected = prior @ design.T @ np.linalg.solve(covariance, study.features.astype(float))
    np.testing.assert_allclose(found.mean, expected[0], atol=1e-8)
    start, total = 1, 0.0
    squares = {}
    for name, table in columns.items():
        part = expected[start : start + table.shape[1]]
        start += table.shape[1]
        effects = found.effects[name.partition("_")[0]]
        np.testing.assert_allclose(effects.loc[table.columns], part, atol=1e-8)
        squares[name] = (table.to_numpy(float) @ part) ** 2
        total += squares[name]
    rest = total + (study.features - design @ expected) ** 2
    for name, table in columns.items():
        assert found.contributions[name] == pytest.approx((squares[name] / rest).mean() / table.shape[1], rel=1e-8)
    assert list(found.contributions.index) == FAMILIES


def test_effects_of_people_and_places_add_up_to_0_and_a_penalty_shrinks_them(study, found):
    for name in ("participant", "measurement"):
        np.testing.assert_allclose(found.effects[name].sum(), 0, atol=1e-12)
    sampling = found.effects["sampling"]
    np.testing.assert_allclose(sampling.groupby(sampling.index.str.split("/").str[1]).sum(), 0, atol=1e-12)
    strong = yamashita2019(load_dataset(study.scans, study.features), ridge=1e4)
    for name, effects in found.effects.items():
        assert (strong.effects[name] ** 2).to_numpy().sum() < 0.1 * (effects**2).to_numpy().sum()


@pytest.mark.parametrize("ridge", [0, -1.0, np.nan, np.inf])
def test_an_impossible_penalty_is_refused(study, ridge):
    with pytest.raises(InputError, match=r"penalty[\s\S]*above 0"):
        yamashita2019(load_dataset(study.scans, study.features), ridge=ridge)
