"""Fit a model to a study: hyperparameters from a sample of features, then every feature, block by block."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from itertools import chain
from numbers import Integral
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bayesharm.block import BlockSampler, Settings, Study
from bayesharm.checkpoints import Arrays, Checkpoints, keep_parts
from bayesharm.dataset import Dataset
from bayesharm.design import Design, build_design
from bayesharm.errors import InputError, shorten
from bayesharm.inference.effects import average_effects
from bayesharm.inference.hyper import Hyper, fit_hyper
from bayesharm.inference.importance import evaluate_nodes, find_modes
from bayesharm.inference.joint import FEW_FEATURES, LEAST_DRAWS, Joint, sample_joint
from bayesharm.inference.lanes import make_mixture, sample_block, vague_mixture
from bayesharm.inference.noise import approximate_ratio
from bayesharm.inference.problem import Stage, make_problem
from bayesharm.labels import label_posterior
from bayesharm.moments import Moments
from bayesharm.posterior import Posterior, check_output, remove_run
from bayesharm.spec import UNITS, ModelSpec, load_model

Report = Callable[[str, int, int, str], None]
"""Receives (stage, done, total, note); stages are `kept parts`, `hyperparameters`, `features` and `second run`."""

BLOCKS_OF_A_PART = 16  # that are kept together: some seconds of work
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
    overwrite: bool = False,
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
        Write the run folder there. Finished blocks of features are kept in it, so that a run that was interrupted goes on
        where it stopped, with the same result, when it is started again in the same way.
    overwrite : bool
        Start afresh where `out` holds a run already, finished or not.
    settings : Settings, optional
    report : callable, optional
        Told about progress.

    Returns
    -------
    Posterior

    Raises
    ------
    ModelError, InputError, RunFolderError
        The study does not fit the model, an option is impossible, or `out` holds something already: other files, a
        finished run, or an unfinished one that was started otherwise.
    """
    out = None if out is None else Path(out)
    if out is not None:
        check_output(out, resume=True, overwrite=overwrite)
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
    plan = _plan(dataset, design, seed, settings)
    try:
        with jax.enable_x64(True):
            study = Study(dataset, design, make_problem(design), _unit_of(dataset, design), plan["seed"], settings)
            if out is not None and overwrite:  # all that can be refused has been
                remove_run(out)
            with keep_parts(out, plan) as parts:
                posterior = _fit(study, plan, parts, report or (lambda *event: None))
                if out is not None:
                    posterior.write(out)
    finally:
        for program in PROGRAMS:  # compiled for this study: kept, they would fill the memory after some twenty fits
            program.clear_cache()  # type: ignore[attr-defined]
    return posterior


def _plan(dataset: Dataset, design: Design, seed: int, settings: Settings) -> dict[str, Any]:
    """All that the result depends on."""
    scans = dataset.scans.to_csv(index=False).encode()
    return {
        "spec": design.spec.to_dict(),
        "seed": int(seed),
        "settings": asdict(settings),
        "versions": {name: version(name) for name in PACKAGES},
        "features": dataset.features.fingerprint(),
        "scans": hashlib.sha256(scans).hexdigest(),
    }


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


def _fit(study: Study, plan: dict[str, Any], parts: Checkpoints, report: Report) -> Posterior:
    dataset = study.dataset
    n_features = len(dataset.features.names)
    if parts.kept or parts.damaged:
        note = f"damaged, computed again: {shorten(parts.damaged)}" if parts.damaged else "going on where it stopped"
        report("kept parts", parts.kept, parts.kept + len(parts.damaged), note)
    # Work is done apart from the main thread, which waits for it and so can be interrupted at any time.
    pool = ThreadPoolExecutor(N_WORKERS)
    try:
        few = n_features <= FEW_FEATURES
        hyper, results = (_fit_few if few else _fit_many)(pool, study, parts, report)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    n_failed = int((~results["converged"]).sum())
    report(
        "features",
        n_features,
        n_features,
        f"{n_failed} of {n_features} not converged" if n_failed else "all converged",
    )
    return label_posterior(dataset, study.design, hyper, results, plan)


def _fit_few(pool: Executor, study: Study, parts: Checkpoints, report: Report) -> tuple[Hyper, Arrays]:
    """Everything in one chain of draws."""
    n_features = len(study.dataset.features.names)
    kept, found = parts.read("together-hyper"), parts.read("together")
    if kept is not None and found is not None:
        return Hyper.from_arrays(kept), found
    moments, standard = study.moments(np.arange(n_features))
    report("features", 0, n_features, "compiling, then sampling all together with what they share")
    n_draws = max(LEAST_DRAWS, study.settings.draws)
    joint = pool.submit(_sample_together, study, moments, n_draws).result()
    found = pool.submit(study.summarize, joint.hyper.log_ratio.mean, moments, standard, joint.scales).result()
    parts.write("together-hyper", joint.hyper.to_arrays())
    parts.write("together", found)
    return joint.hyper, found


def _sample_together(study: Study, moments: Moments, n_draws: int) -> Joint:
    with jax.enable_x64(True):  # the switch belongs to a thread
        return sample_joint(study.problem, moments, seed=study.seed, n_chains=study.settings.chains, n_draws=n_draws)


def _fit_many(pool: Executor, study: Study, parts: Checkpoints, report: Report) -> tuple[Hyper, Arrays]:
    """What features share from a sample of them, then every feature, block by block."""
    hyper, sample = _learn(pool, study, parts, report)
    n_features = len(study.dataset.features.names)
    mixture = make_mixture(hyper)
    weights = np.zeros((len(mixture.log_weight), n_features))
    weights[:, sample] = mixture.log_weight
    work = BlockSampler(study, hyper.log_ratio.mean, mixture._replace(log_weight=weights))

    first = _sample_features(pool, work, parts, report, np.arange(n_features))
    failed = np.flatnonzero(~first["converged"])
    if not len(failed):
        return hyper, first
    again = _sample_features(pool, work, parts, report, failed, careful=True)
    for name, values in again.items():
        first[name][..., failed] = values
    return hyper, first


def _learn(pool: Executor, study: Study, parts: Checkpoints, report: Report) -> tuple[Hyper, np.ndarray]:
    """What features share, and the features that taught it."""
    n_features, settings = len(study.dataset.features.names), study.settings
    rng = np.random.default_rng([study.seed, Stage.SAMPLE])
    n_sample = min(n_features, settings.hyper_features)
    if kept := parts.read("hyper"):
        return Hyper.from_arrays(kept), kept["sample"]
    sample = np.sort(rng.choice(n_features, n_sample, replace=False))
    moments, _ = study.moments(sample)
    report("hyperparameters", 0, n_sample, f"from {n_sample} features")

    def tell(note: str) -> None:
        report("hyperparameters", 0, n_sample, note)

    def learn() -> Hyper | None:
        with jax.enable_x64(True):  # the switch belongs to a thread
            return fit_hyper(study.problem, moments, sample, seed=study.seed, report=tell)

    ahead = pool.submit(_compile, study, n_sample)
    hyper = pool.submit(learn).result()
    if hyper is None:  # what nodes cannot resolve, fewer features teach together
        sample = sample[np.unique(np.linspace(0, n_sample - 1, FEW_FEATURES).astype(int))]
        tell(f"they do not settle; sampling {len(sample)} features together with what they share, which takes some minutes")
        hyper = pool.submit(_sample_together, study, study.moments(sample)[0], LEAST_DRAWS // 2).result().hyper
    parts.write("hyper", hyper.to_arrays() | {"sample": sample})
    ahead.result()
    report("hyperparameters", n_sample, n_sample, "done")
    return hyper, sample


def _compile(study: Study, n_sample: int) -> None:
    """Sample a block under a prior that means nothing, so that its program is there when hyperparameters are."""
    n_features = len(study.dataset.features.names)
    mixture = vague_mixture(study.problem, n_sample, n_features)
    block = next(_blocks(np.arange(n_features), min(study.settings.block_size, n_features)))
    BlockSampler(study, np.zeros(study.problem.n_scanners), mixture).sample(block)


def _sample_features(
    pool: Executor,
    work: BlockSampler,
    parts: Checkpoints,
    report: Report,
    features: np.ndarray,
    careful: bool = False,
) -> Arrays:
    """Summaries of features, each part of them kept as soon as it is there."""
    n_features, size = len(features), min(work.study.settings.block_size, len(work.study.dataset.features.names))
    step = size * BLOCKS_OF_A_PART
    name, stage, after = ("again", "second run", "not converged") if careful else ("features", "features", "to run again")
    shares = [features[start : start + step] for start in range(0, n_features, step)]
    kept = [parts.read(f"{name}-{k}") for k in range(len(shares))]
    blocks = [block for share, found in zip(shares, kept, strict=True) if found is None for block in _blocks(share, size)]
    done = sum(len(share) for share, found in zip(shares, kept, strict=True) if found is not None)
    report(stage, done, n_features, "compiling, then sampling" if blocks else "")
    sample = partial(work.sample, careful=careful)
    first = [pool.submit(sample, block).result() for block in blocks[:1]]  # alone: it compiles the program of all
    finished = chain(first, pool.map(sample, blocks[1:]))
    failed, complete = sum(int((~found["converged"]).sum()) for found in kept if found is not None), []
    for k, share in enumerate(shares):
        part = kept[k]
        if part is None:
            found = []
            for start in range(0, len(share), size):
                found.append(next(finished))
                n_own = min(size, len(share) - start)
                done, failed = done + n_own, failed + int((~found[-1]["converged"][:n_own]).sum())
                report(stage, done, n_features, f"{failed} {after}" if failed else "")
            part = {key: array[..., : len(share)] for key, array in _join(found).items()}
            parts.write(f"{name}-{k}", part)
        complete.append(part)
    return _join(complete)


def _join(parts: Sequence[Arrays]) -> Arrays:
    return {key: np.concatenate([part[key] for part in parts], axis=-1) for key in parts[0]}


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
