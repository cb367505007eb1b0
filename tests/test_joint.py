"""A few features sampled together with what they share, against brute force."""

import jax
import numpy as np
from numpyro.diagnostics import effective_sample_size
from scipy import stats
from test_inference import FALSE_ALARMS, N_FEATURES, SCALES, Study, hyperposterior

from bayesharm.inference.joint import sample_joint
from bayesharm.inference.problem import make_problem


def test_joint_draws_have_the_hyperposterior_of_quadrature():
    study = Study(np.zeros(4), seed=0)
    with jax.enable_x64(True):
        problem = make_problem(study.design)
        joint = sample_joint(problem, study.moments, seed=1, n_warmup=400, n_draws=500)
    assert joint.scales.log_scales.shape == (4, 500, len(SCALES), N_FEATURES)
    assert joint.hyper.diverging < 20
    mean, sd, error = hyperposterior(study.quadrature(), problem.log_medians)
    draws = np.concatenate([joint.hyper.eta, joint.hyper.omega], axis=-1)
    ess = effective_sample_size(draws)
    assert ess.min() > 200
    z = (draws.mean((0, 1)) - mean) / sd / np.hypot(np.hypot(1 / np.sqrt(ess), error / sd), 0.03)  # 0.03: the grid's own
    assert np.abs(z).max() < stats.norm.isf(FALSE_ALARMS / 2 / z.size), z.round(1)
