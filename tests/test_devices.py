"""Features shared out over several devices give what one device gives; JAX sees several where it is told so at its start."""

import os
import subprocess
import sys

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import bayesharm
from bayesharm.algorithms.devices import find_devices, single_threaded_blas
from bayesharm.errors import InputError
from bayesharm.fitting.block_sampler import BlockSampler
from bayesharm.fitting.context import FitContext
from bayesharm.fitting.settings import Settings
from bayesharm.inference.predictive_prior import placeholder_prior
from bayesharm.likelihood.problem import make_problem
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.catalog import load_model
from bayesharm.model.design import build_design

N_DEVICES, BLOCK = 2, np.arange(64)
SAMPLE = """
import sys
import numpy as np
from test_devices import sample
np.savez(sys.argv[2], **sample(sys.argv[1], 32))
"""


def sample(folder, block_size):
    """Summaries of a block under a prior that means nothing, on all devices there are."""
    dataset = bayesharm.load_dataset(f"{folder}/scans.csv", f"{folder}/features.npy")
    design = build_design(dataset.scans, load_model("traveling_and_cohort"))
    devices = find_devices("cpu")
    with devices.in_use("float64"):
        problem = make_problem(design)
        study = FitContext(dataset, design, problem, None, 1, Settings(block_size=block_size), devices)
        assert study.block_size == len(BLOCK)
        mixture = placeholder_prior(problem, len(dataset.features.names), len(dataset.features.names))
        return BlockSampler(study, VarianceRatios.equal(problem.n_scanners), mixture).sample(BLOCK) | {
            "devices": str(devices)
        }


@pytest.mark.slow
def test_several_devices_give_what_one_gives(small_study, tmp_path):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={N_DEVICES}"
    path = os.pathsep.join([os.path.dirname(__file__), *filter(None, [os.environ.get("PYTHONPATH")])])
    subprocess.run(
        [sys.executable, "-c", SAMPLE, small_study, tmp_path / "several.npz"],
        check=True,
        env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": path},
    )
    one, several = sample(small_study, 64), np.load(tmp_path / "several.npz")
    assert one["devices"] == "cpu" and several["devices"] == f"{N_DEVICES} × cpu"
    np.testing.assert_array_equal(several["n_draws"], one["n_draws"])
    # The same draws but for rounding; where that turns a step of NUTS around, the same within Monte-Carlo error.
    gap = abs(several["effect_mean"] - one["effect_mean"]) / one["effect_sd"]
    assert np.median(gap) < 1e-4 and (gap.max(0) < 1e-2).mean() > 0.9 and gap.max() < 5 / np.sqrt(one["ess_bulk"].min())


def test_a_device_that_is_not_there():
    with pytest.raises(InputError, match=r"no device 'abacus'[\s\S]*got: cpu[\s\S]*--device"):
        find_devices("abacus")


def test_blas_has_one_thread_until_the_last_block_ends():
    def n_threads():
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    with threadpool_limits(2, user_api="blas"):
        first, second = single_threaded_blas(), single_threaded_blas()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)  # not the last one that began
        assert n_threads() == {1}
        second.__exit__(None, None, None)
        assert n_threads() == {2}
