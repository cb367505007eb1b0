"""Corrections of a posterior made by hand, whose scanners have known effects, sds and correlations."""

import warnings

import numpy as np
import pandas as pd
import pytest
from posteriors import make_posterior

from bayesharm.data.dataset import Dataset, load_dataset
from bayesharm.harmonization.harmonize import Harmonized, harmonize
from bayesharm.harmonization.noise_scaling import noise_factors
from bayesharm.harmonization.scanner_ratios import ScannerRatios
from bayesharm.results.posterior import Posterior

SD = 1.0 + np.arange(3)[:, None] + np.arange(4) / 10  # of scanners A, B and C, whose effects are -10, 0 and 10
FEATURES = np.arange(4)


@pytest.fixture(scope="module")
def posterior() -> Posterior:
    return make_posterior()


def scans_on(scanners: str) -> Dataset:
    scans = pd.DataFrame({"scan_id": [f"s{k}" for k in range(len(scanners))], "scanner": list(scanners)})
    scans["participant_id"] = [f"p{k}" for k in range(len(scanners))]
    values = pd.DataFrame(np.ones((len(scans), 4)), columns=["f0", "f1", "f2", "f3"])
    return load_dataset(scans, values.assign(scan_id=scans.scan_id), check="apply")


def quietly(posterior: Posterior, scanners: str, **options) -> Harmonized:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return harmonize(posterior, scans_on(scanners), **options)


def test_scans_become_as_if_the_target_had_measured_them(posterior):
    """The bias of the own scanner goes, that of the target comes; their posterior correlation is -1/2."""
    found = quietly(posterior, "ABC", target="C")
    np.testing.assert_allclose(found.mean, 1 + np.array([[20.0], [10.0], [0.0]]) * np.ones(4))
    np.testing.assert_allclose(found.sd[:2], np.sqrt(SD[:2] ** 2 + SD[2] ** 2 + SD[:2] * SD[2]))
    assert not found.sd[2].any()


def test_an_unseen_scanner_has_the_variance_of_its_difference_from_the_mean_of_those_seen(posterior):
    found, scale = quietly(posterior, "AD", new_scanners="prior"), posterior.scales.sel(family="measurement")
    np.testing.assert_array_equal(found.mean[1], 1)
    expected = (scale["mean"].values ** 2 + scale["sd"].values ** 2) * (1 + 1 / 3)
    np.testing.assert_allclose(found.sd[1] ** 2, expected)


@pytest.mark.parametrize("target", [-1, 2])
def test_matched_noise_gives_people_scanned_once_one_variance(posterior, target):
    """That of the target, or of an average scanner: tau² + sigma² lambda, times the square of the factor."""
    log_noise = np.log([0.5, 1.0, 3.0])
    factor = noise_factors(posterior, ScannerRatios(log_noise, np.zeros(3)), target, FEATURES)
    median = posterior.scales["q50"]
    people, noise = median.sel(family="participant").values ** 2, median.sel(family="noise").values ** 2
    at_target = np.exp(log_noise[target]) if target >= 0 else 1.0
    variance = people + noise * np.exp(log_noise)[:, None]
    np.testing.assert_allclose(factor**2 * variance, np.broadcast_to(people + noise * at_target, (3, 4)))
