"""Fit a model to a study: hyperparameters from a sample of features, then every feature, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from itertools import chain
from numbers import Integral
from pathlib import Path

import jax
import numpy as np

from bayesharm.block import BlockSampler, Settings, Study
from bayesharm.dataset import Dataset
from bayesharm.design import Design, build_design
from bayesharm.errors import InputError, shorten
from bayesharm.inference.effects import average_effects
from bayesharm.inference.hyper import ENOUGH_FEATURES, Hyper, fit_hyper
from bayesharm.inference.importance import evaluate_nodes, find_modes
from bayesharm.inference.joint import FEW_FEATURES, LEAST_DRAWS, Joint, sample_joint
from bayesharm.inference.lanes import make_mixture, sample_block
from bayesharm.inference.noise import approximate_ratio
from bayesharm.inference.problem import Problem, Stage, make_problem
from bayesharm.labels import label_posterior
from bayesharm.moments import Moments
from bayesharm.posterior import Posterior, check_output
from bayesharm.spec import UNITS, ModelSpec, load_model

Report = Callable[[str, int, int, str], None]
"""Receives (stage, done, total, note); stages are `hyperparameters` and `features`."""

N_WORKERS = 2  # blocks at work at once: one block keeps about one core busy
PROGRAMS = (find_modes, evaluate_nodes, approximate_ratio, sample_block, average_effects)
PACKAGES = ("bayesharm", "jax", "numpyro", "numpy", "pandas", "xarray", "zarr")


def fit(
    dataset: Dataset,
    model: str | ModelSpec = "traveling_and_cohort",
    *,
    seed: int = 0,
    covariates: Sequence[str] = (),
    reference: str | None = None,
    units: str | None = None,
    out: str | Path | None = None,
    settings: Settings | None = None,
    report: Report | None = None,
) -> Posterior:
    """Sample the joint posterior of all bias sources, for every feature.

    Parameters
    ----------
    dataset : Dataset
        From :func:`bayesharm.load_dataset`.
    model : str or ModelSpec
        A model's name (``bayesharm models`` lists them), or a folder with a ``model.toml``.
    seed : int
        The same seed gives the same result on the same machine with the same versions.
    covariates : sequence of str
        Columns of the scans table with a linear effect on every feature.
    reference : str, optional
        The diagnosis that disorder effects are measured against; default: the model's, `HC`.
    units : {'each', 'shared'}, optional
        Compare the scales of features in each feature's own sd (the default: right for any mixture of measures), or in
        one unit for all (better where all features are of one kind, such as the edges of a connectome).
    out : path, optional
        Write the run folder there.
    settings : Settings, optional
    report : callable, optional
        Told about progress.

    Returns
    -------
    Posterior

    Raises
    ------
    ModelError, InputError, RunFolderError
        The study does not fit the model, an option is impossible, or `out` holds something already.
    """
    if out is not None:
        check_output(out)
    spec = load_model(model) if isinstance(model, str) else model
    if covariates:
        spec = replace(spec, covariates=tuple(covariates))
    if reference is not None:
        spec = replace(spec, reference=reference)
    if units is not None:
        if units not in UNITS:
            raise InputError(
                "Unknown units.",
                got=repr(units),
                expected=f"one of {', '.join(UNITS)}",
                do="leave it out: each feature then has its own",
            )
        spec = replace(spec, units=units)
    settings = settings or Settings()
    _check(settings, seed)
    dataset = _sorted(dataset)
    design = build_design(dataset.scans, spec)
    try:
        with jax.enable_x64(True):
            posterior = _fit(dataset, design, seed, settings, report or (lambda *event: None))
    finally:
        for program in PROGRAMS:  # compiled for this study: kept, they would fill the memory after some twenty fits
            program.clear_cache()  # type: ignore[attr-defined]
    if out is not None:
        posterior.save(out)
    return posterior


def _check(settings: Settings, seed: int) -> None:
    if settings.dtype not in ("float32", "float64"):
        raise InputError(
            "The setting 'dtype' is impossible.",
            got=repr(settings.dtype),
            expected="'float32' or 'float64'",
            do="leave it out: the default serves",
        )
    for name, value in asdict(settings).items():
        if name == "dtype":
            continue
        least = {"keep_draws": 0, "chains": 2, "draws": 8}.get(name, 1)
        if not isinstance(value, int) or value < least:
            raise InputError(
                f"The setting {name!r} is impossible.",
                got=repr(value),
                expected=f"a whole number, {least} or more",
                do="leave it out: the default serves",
            )
    if not isinstance(seed, Integral) or not 0 <= seed < 2**32:
        raise InputError(
            "The seed cannot be used.",
            got=repr(seed),
            expected="a whole number from 0 to 4294967295",
            do="choose another --seed",
        )


def _fit(dataset: Dataset, design: Design, seed: int, settings: Settings, report: Report) -> Posterior:
    versions = {name: version(name) for name in PACKAGES}
    study = Study(dataset, design, make_problem(design), _unit_of(dataset, design), seed, settings)
    n_features = len(dataset.features.names)
    results = _allocate(study.problem, n_features, settings)
    # Work is done apart from the main thread, which waits for it and so can be interrupted at any time.
    pool = ThreadPoolExecutor(N_WORKERS)
    try:
        if n_features <= FEW_FEATURES:
            hyper = _fit_few(pool, study, results, report)
        else:
            hyper = _fit_many(pool, study, results, report)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    n_failed = int((~results["converged"]).sum())
    report(
        "features",
        n_features,
        n_features,
        f"{n_failed} of {n_features} not converged" if n_failed else "all converged",
    )
    return label_posterior(
        dataset, design, hyper, results, seed=seed, settings=asdict(settings), versions=versions
    )


def _fit_few(pool: Executor, study: Study, results: dict[str, np.ndarray], report: Report) -> Hyper:
    """Everything in one chain of draws."""
    n_features = len(study.dataset.features.names)
    every = np.arange(n_features)
    moments, standard = study.moments(every)
    report("features", 0, n_features, "compiling, then sampling all together with what they share")
    joint = pool.submit(_sample_together, study, moments).result()
    _put(results, every, pool.submit(study.summarize, joint.hyper, moments, standard, joint.scales).result())
    return joint.hyper


def _sample_together(study: Study, moments: Moments) -> Joint:
    with jax.enable_x64(True):  # the switch belongs to a thread
        settings = study.settings
        n_draws = max(LEAST_DRAWS, settings.draws)
        return sample_joint(study.problem, moments, seed=study.seed, n_chains=settings.chains, n_draws=n_draws)


def _fit_many(pool: Executor, study: Study, results: dict[str, np.ndarray], report: Report) -> Hyper:
    """What features share from a sample of them, then every feature, block by block."""
    n_features, settings = len(study.dataset.features.names), study.settings
    rng = np.random.default_rng([study.seed, Stage.SAMPLE])
    n_sample = min(n_features, settings.hyper_features)
    sample = np.sort(rng.choice(n_features, n_sample, replace=False))
    moments, _ = study.moments(sample)
    report("hyperparameters", 0, n_sample, f"from {n_sample} features")

    def tell(note: str) -> None:
        report("hyperparameters", 0, n_sample, note)

    def learn() -> Hyper | None:
        with jax.enable_x64(True):  # the switch belongs to a thread
            return fit_hyper(study.problem, moments, sample, seed=study.seed, report=tell)

    hyper = pool.submit(learn).result()
    if hyper is None:  # what nodes cannot resolve, fewer features teach together
        if n_features <= ENOUGH_FEATURES:
            return _fit_few(pool, study, results, report)
        sample = sample[np.linspace(0, n_sample - 1, ENOUGH_FEATURES).astype(int)]
        n_sample = len(sample)
        tell(f"they do not settle; sampling {n_sample} features together with what they share, which takes longer")
        hyper = pool.submit(_sample_together, study, study.moments(sample)[0]).result().hyper
    report("hyperparameters", n_sample, n_sample, "done")
    mixture = make_mixture(hyper)
    weights = np.zeros((len(mixture.log_weight), n_features))
    weights[:, sample] = mixture.log_weight
    work = BlockSampler(study, hyper, mixture._replace(log_weight=weights))
    report("features", 0, n_features, "compiling, then sampling")
    size = min(settings.block_size, n_features)
    blocks = list(_blocks(np.arange(n_features), size))
    # the first block alone: it compiles the program of all
    finished = chain([pool.submit(work.sample, blocks[0]).result()], pool.map(work.sample, blocks[1:]))
    for block, found in zip(blocks, finished, strict=True):
        _put(results, block, found)
        done = int(block[-1]) + 1
        failed = int((~results["converged"][:done]).sum())
        report("features", done, n_features, f"{failed} to run again" if failed else "")
    again = list(_blocks(np.flatnonzero(~results["converged"]), size))
    for k, found in enumerate(pool.map(partial(work.sample, careful=True), again)):
        _put(results, again[k], found)
        report("features", n_features, n_features, f"run again with more draws: {k + 1} of {len(again)} blocks")
    return hyper


def _sorted(dataset: Dataset) -> Dataset:
    """Scans in an order of their own, so that the order of the table does not even change rounding."""
    keys = [dataset.scans[name].to_numpy(str) for name in ("scan_id", "scanner", "participant_id")]
    order = np.lexsort(keys)
    scans = dataset.scans.iloc[order].reset_index(drop=True)
    return replace(dataset, scans=scans, features=dataset.features.align(order))


def _unit_of(dataset: Dataset, design: Design) -> float | None:
    """The unit that all features share, if they do; refuses features that do not vary over the scans in use.

    Raises
    ------
    InputError
    """
    n_features, flat, squares = len(dataset.features.names), [], 0.0
    for start in range(0, n_features, 512):
        stop = min(start + 512, n_features)
        variance = dataset.features.read(start, stop)[design.rows].var(axis=0)
        flat += list(dataset.features.names[start:stop][~(variance > 0)])
        squares += variance.sum()
    if flat:
        raise InputError(
            "Some features do not vary over the scans that the model uses.",
            got=shorten(flat),
            expected="at least two different values",
            do="leave these features out",
        )
    return float(np.sqrt(squares / n_features)) if design.spec.units == "shared" else None


def _blocks(features: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Blocks of one size, the last one filled up with its last feature, so that one program serves all."""
    for start in range(0, len(features), size):
        block = features[start : start + size]
        yield np.pad(block, (0, size - len(block)), mode="edge")


def _allocate(problem: Problem, n_features: int, settings: Settings) -> dict[str, np.ndarray]:
    n_scales, n_effects = len(problem.log_medians), len(problem.contrasts)
    results: dict[str, np.ndarray] = {
        name: np.full((n_scales, n_features), np.nan)
        for name in ("mean", "sd", "q05", "q50", "q95", "ess_bulk", "rhat")
    }
    results |= {name: np.full((n_effects, n_features), np.nan) for name in ("effect_mean", "effect_sd")}
    results |= {name: np.full(n_features, np.nan) for name in ("khat", "centre", "unit")}
    results |= {name: np.zeros(n_features, int) for name in ("divergences", "draws", "steps")}
    results["converged"] = np.zeros(n_features, bool)
    if settings.keep_draws:
        results["kept"] = np.full((settings.keep_draws, n_scales, n_features), np.nan)
    return results


def _put(results: dict[str, np.ndarray], block: np.ndarray, found: dict[str, np.ndarray]) -> None:
    for name, value in found.items():
        results[name][..., block] = value
