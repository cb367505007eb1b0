"""bayesharm and samplers of the same model on the same data: effective draws of the log-scales per second.

    python benchmarks/peers.py [--edges 64] [--minutes 4] [--only collapsed …] [--out table.md]

The simulated SRPBS study, `traveling_and_cohort`, four chains each; needs the optional part `pymc`.

- bayesharm: the whole inference, hyperparameters, features and effects; and its part that grows with the features.
- explicit NumPyro: every effect a sampled site, each parametrized as the scans determine it, as an experienced user would.
- PyMC + nutpie: the same model written apart from it, non-centered.
- collapsed NumPyro: effects integrated out by our likelihood, all scales and what they share in one NUTS, without lanes.

Everything is compiled before the clock starts. A peer first has a pilot, outside its time, that says how many iterations
fit into `--minutes`; half of them, but at most 1,000, are warm-up. Its time is that of warm-up and draws. Effective
draws of chains that do not agree are no measure of anything: such a row says so.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import nutpie
import pandas as pd
from numpyro.handlers import reparam
from numpyro.infer import NUTS, init_to_median, init_to_uniform
from numpyro.infer.reparam import LocScaleReparam
from recovery import publish

from bayesharm import load_dataset
from bayesharm.algorithms.diagnostics import Diagnostics, diagnose
from bayesharm.data.dataset import Dataset
from bayesharm.datasets.simulate import simulate_srpbs
from bayesharm.fitting.fit import fit
from bayesharm.likelihood.moments import Moments, compute_moments
from bayesharm.likelihood.problem import Problem, make_problem
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.catalog import load_model
from bayesharm.model.design import Design, build_design
from bayesharm.reference_models import numpyro_model as explicit
from bayesharm.reference_models.pymc_model import build_pymc
from bayesharm.results.posterior import Posterior

MODEL = "traveling_and_cohort"
N_CHAINS, TARGET = 4, 0.9  # acceptance that peers aim at
PILOT, PILOT_SECONDS = 60, 20  # iterations, or if they take longer so many seconds and a sixth of `--minutes`
MOST, LEAST = 1000, 20  # warm-up and draws of a chain; at least so many draws, even if it takes longer
AGREE = 1.05  # a looser R-hat than that of a converged feature: a peer's rate is then of some use
GOALS = {"explicit NumPyro": 1000, "PyMC + nutpie": 300}


class Run(NamedTuple):
    """Draws of one sampler and what they took."""

    log_scales: np.ndarray  # (chain, draw, scale, feature)
    diverging: np.ndarray  # (chain, draw)
    n_steps: float  # leapfrog steps a draw
    n_warmup: int
    seconds: float
    compiling: float


def share_out(seconds: float, pace: float) -> tuple[int, int]:
    """Warm-up and draws that fit into a time, from the seconds of an iteration."""
    n = max(int(seconds / pace), 2 * LEAST)
    return min(n // 2, MOST), min(n - min(n // 2, MOST), MOST)


def run_numpyro(kernel: Callable[[], NUTS], args: tuple, seconds: float) -> Run:
    """NumPyro's NUTS, chains vectorized into one program; the host asks for one iteration after the other."""
    keys = jax.random.split(jax.random.key(1), N_CHAINS)

    def iterate(n_warmup: int, n_draws: int, limit: float) -> tuple[Run, list[float]]:
        nuts, started = kernel(), time.perf_counter()
        state = nuts.init(keys, n_warmup, None, args, {})
        step = jax.jit(lambda state: nuts.sample(state, args, {})).lower(state).compile()
        times, states = [time.perf_counter()], []
        # Late in its warm-up it goes on until there are draws at all.
        while len(states) < n_draws and (times[-1] - times[0] < limit or 0 < len(states) < LEAST):
            state = jax.block_until_ready(step(state))
            times.append(time.perf_counter())
            if len(times) > n_warmup + 1:
                states.append((state.z, state.diverging, state.num_steps))
        if len(states) < LEAST:
            return Run(np.empty((N_CHAINS, 0)), np.empty(0), 0, len(times) - 1, times[-1] - times[0], 0), times
        diverging, n_steps = (np.stack(counts) for counts in list(zip(*states, strict=True))[1:])
        constrain = jax.jit(jax.vmap(lambda z: nuts.postprocess_fn(args, {})(z)["log_scales"]))
        log_scales = np.stack([constrain(position) for position, _, _ in states], axis=1)
        spent, compiling = times[-1] - times[0], times[0] - started
        return Run(log_scales, diverging.T, float(n_steps.mean()), n_warmup, spent, compiling), times

    _, times = iterate(PILOT, LEAST, max(seconds / 6, PILOT_SECONDS))
    late = np.diff(times)[len(times) // 2 :]  # the first trees are the deepest
    return iterate(*share_out(seconds, late.mean()), limit=1.5 * seconds)[0]


def run_explicit(dataset: Dataset, design: Design, seconds: float) -> Run:
    model = partial(explicit.numpyro_model, design, dataset.features.read(0, dataset.features.n_features))
    model = reparam(model, config=explicit._parametrization(design))
    make = partial(NUTS, model, init_strategy=init_to_uniform(radius=0.5), target_accept_prob=TARGET)
    return run_numpyro(make, (), seconds)


def collapsed_model(problem: Problem, moments: Moments) -> None:
    """Define the model with all effects integrated out, as a NumPyro model."""
    priors, n_features = problem.priors, moments.squares.shape[1]
    log_medians = jnp.asarray(problem.log_medians)
    eta = numpyro.sample("eta", dist.Normal(log_medians, priors.eta_sd))
    omega_excess = numpyro.sample("omega_excess", dist.HalfNormal(jnp.full(len(log_medians), priors.omega_sd)))
    omega = numpyro.deterministic("omega", jnp.hypot(omega_excess, priors.omega_floor))
    mean, sd = (jnp.repeat(value[:, None], n_features, axis=1) for value in (eta, omega))
    total_sd = jnp.sqrt(sd[0] ** 2 + priors.feature_offset_sd**2)
    log_noise = numpyro.sample("log_noise", dist.Normal(mean[0], total_sd))
    if priors.feature_offset_sd:  # the data determine the noise well, so the offset is sampled given the noise
        share = (priors.feature_offset_sd / total_sd) ** 2
        given_noise = dist.Normal(share * (log_noise - mean[0]), jnp.sqrt(share) * sd[0])
        mean += numpyro.sample("feature_offset", given_noise)
    other = numpyro.sample("log_scale", dist.Normal(mean[1:], sd[1:]))
    log_scales = numpyro.deterministic("log_scales", jnp.concatenate([log_noise[None], other]))
    equal = jnp.zeros(problem.n_scanners)
    noise = numpyro.sample("raw", dist.Normal(equal, priors.noise_ratio_sd)) if problem.noise_ratio else equal
    bias = numpyro.sample("raw_bias", dist.Normal(equal, priors.bias_ratio_sd)) if problem.bias_ratio else equal
    ratios = VarianceRatios(noise - noise.mean(), bias - bias.mean())
    numpyro.deterministic("log_ratio", ratios.to_vector())
    statistics = problem.likelihood.weighted(ratios, moments)
    numpyro.factor("features", problem.likelihood.log_likelihood(statistics, log_scales).sum())


def run_collapsed(dataset: Dataset, design: Design, seconds: float) -> Run:
    problem = make_problem(design)
    values = dataset.features.read(0, dataset.features.n_features)
    moments, _ = compute_moments(design, values)
    config = dict.fromkeys(["log_scale", "feature_offset"], LocScaleReparam(0))
    model = reparam(partial(collapsed_model, problem), config=config)
    make = partial(NUTS, model, init_strategy=init_to_median, target_accept_prob=TARGET)
    return run_numpyro(make, (jax.tree.map(jax.numpy.asarray, moments),), seconds)


def run_pymc(dataset: Dataset, design: Design, seconds: float) -> Run:
    """Nutpie, a thread for each chain, so that all are equally far when the time is up."""
    started = time.perf_counter()
    model = build_pymc(design, dataset.features.read(0, dataset.features.n_features))
    compiled = nutpie.compile_pymc_model(model, backend="jax", var_names=["log_scale"])  # numba: 18 times slower
    compiling = time.perf_counter() - started

    def iterate(n_warmup: int, n_draws: int, limit: float) -> Run:
        started = time.perf_counter()
        sampler = nutpie.sample(
            compiled, tune=n_warmup, draws=n_draws, chains=N_CHAINS, cores=N_CHAINS, seed=1,
            target_accept=TARGET, progress_bar=False, blocking=False,
        )  # fmt: skip
        while time.perf_counter() - started < limit:
            with suppress(TimeoutError):  # it is busy
                if sampler.is_finished:
                    break
            time.sleep(0.2)
        seconds = time.perf_counter() - started
        tree = sampler.abort()
        there = {}
        for group in ("warmup_posterior", "posterior"):
            draws = tree[group]["log_scale"].values if group in tree.children else np.empty((N_CHAINS, 0, 1, 1))
            there[group] = draws[:, : np.isfinite(draws).all((2, 3)).sum(1).min()]
        n = there["posterior"].shape[1]
        stats = tree["sample_stats"].isel(draw=slice(0, n)) if n else None
        diverging = stats["diverging"].values if n else np.empty(0)
        n_steps = float(stats["n_steps"].mean()) if n else 0.0
        return Run(there["posterior"], diverging, n_steps, there["warmup_posterior"].shape[1], seconds, compiling)

    pilot = iterate(PILOT, LEAST, max(seconds / 6, PILOT_SECONDS))
    pace = pilot.seconds / max(pilot.n_warmup + pilot.log_scales.shape[1], 1)
    return iterate(*share_out(seconds, pace), 1.5 * seconds)


PEERS = {"explicit NumPyro": run_explicit, "PyMC + nutpie": run_pymc, "collapsed NumPyro": run_collapsed}


def run_bayesharm(dataset: Dataset) -> tuple[Posterior, dict[str, float]]:
    """The fit, and the seconds of compilation, of the whole and of the features and their effects."""
    started = time.perf_counter()
    fit(dataset, MODEL, seed=1)
    first = time.perf_counter() - started
    learned: list[float] = []

    def report(stage: str, done: int, total: int, note: str) -> None:
        if stage == "features" and not learned:
            learned.append(time.perf_counter())

    started = time.perf_counter()
    posterior = fit(dataset, MODEL, seed=1, progress=report)
    ended = time.perf_counter()
    whole = ended - started
    return posterior, {"compiling": first - whole, "whole": whole, "features": ended - learned[0]}


def describe(name: str, verdict: Diagnostics, seconds: float, **more: object) -> dict[str, object]:
    """A row: effective draws of the worst scale of each feature, added up, and those of the worst of all."""
    total, least = float(verdict.ess_bulk.min(0).sum()), float(verdict.ess_bulk.min())
    return {
        "sampler": name,
        **more,
        "seconds": round(seconds, 1),
        "effective draws, sum": total,
        "least": least,
        "sum per second": total / seconds,
        "least per second": least / seconds,
        "largest R-hat": float(verdict.rhat.max()),
        "features converged": f"{verdict.converged.sum()} of {len(verdict.converged)}",
        "divergences": int(verdict.divergences.max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=4, help="of each peer")
    parser.add_argument("--only", nargs="+", default=list(PEERS), choices=list(PEERS), help="these peers")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    study = simulate_srpbs(options.edges, seed=1)
    dataset = load_dataset(study.scans, study.features)
    design = build_design(dataset.scans, load_model(MODEL))

    posterior, took = run_bayesharm(dataset)
    scales = posterior.tree["scales"].to_dataset()
    found = Diagnostics(*(scales[key].values for key in ("rhat", "ess_bulk", "divergences", "converged")))
    more = {
        "compiling": round(took["compiling"], 1),
        "warm-up + draws": f"{int(scales['draws'].median()) // N_CHAINS} draws",
        "steps per draw": float((scales["leapfrog_steps"] / scales["n_draws"]).mean()),
    }
    rows = [describe("bayesharm", found, took["whole"], **more)]
    rows.append(describe("bayesharm, features only", found, took["features"], **more | {"compiling": ""}))
    jax.config.update("jax_enable_x64", True)  # peers are no faster in single precision
    center, spread = np.log(scales["q50"].values / scales["feature_scale"].values), (scales["sd"] / scales["mean"]).values
    for name in options.only:
        print(pd.Series(rows[-1]).to_string(), "\n", flush=True)
        run = PEERS[name](dataset, design, 60 * options.minutes)
        if run.log_scales.shape[1] < LEAST:
            done = f"{run.n_warmup}, then stopped: too slow"
            rows.append({"sampler": name, "seconds": round(run.seconds, 1), "warm-up + draws": done})
            continue
        diverging = np.repeat(run.diverging[..., None], options.edges, axis=2)
        verdict = diagnose(run.log_scales, diverging)
        away = (np.median(run.log_scales, axis=(0, 1)) - center) / spread
        row = describe(
            name, verdict, run.seconds, compiling=round(run.compiling, 1),
            **{"warm-up + draws": f"{run.n_warmup} + {run.log_scales.shape[1]}", "steps per draw": run.n_steps},
        )  # fmt: skip
        agree = verdict.rhat.max() < AGREE  # otherwise, or with a few draws, effective draws may even be below 0
        for kind in ("sum", "least"):
            ratio = rows[0][f"{kind} per second"] / row[f"{kind} per second"]
            row[f"bayesharm / it, {kind}"] = f"{ratio:.3g}" if agree else "not converged" if ratio < 0 else f"({ratio:.3g})"
        rows.append(row | {"goal": GOALS.get(name, ""), "medians apart, posterior sds": float(np.sqrt((away**2).mean()))})
    names = ("bayesharm", "jax", "numpyro", "pymc", "nutpie")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    note = (
        f"{len(design.rows):,} scans, {options.edges} features, {N_CHAINS} chains; bayesharm samples features in single "
        f"precision, peers in double; ratios in brackets: chains that do not agree, R-hat above {AGREE}, so that rates mean "
        "nothing; "
        f"Python {platform.python_version()}, {versions}"
    )
    publish(pd.DataFrame(rows, dtype=object).fillna(""), note, options.out)


if __name__ == "__main__":
    main()
