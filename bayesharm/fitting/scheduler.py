"""The stages of a fit in order: hyperparameters from a sample of features, then every feature, block by block."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain

import numpy as np

from bayesharm.algorithms.devices import single_threaded_blas
from bayesharm.algorithms.programs import clear_programs
from bayesharm.algorithms.random_streams import Stage
from bayesharm.errors import shorten
from bayesharm.fitting.block_sampler import RETRY_SCHEDULE, BlockSampler
from bayesharm.fitting.context import FitContext
from bayesharm.fitting.feature_summary import join_features, leapfrog_cost, summarize_features
from bayesharm.fitting.settings import Settings
from bayesharm.fitting.tail_learning import learn_weights, prior_without_one
from bayesharm.fitting.weighted_blocks import WeightedBlockSampler
from bayesharm.inference.effective_features import count_independent_for_ratios
from bayesharm.inference.hyperparameters import Hyperparameters
from bayesharm.inference.learning import SampledTogether, learn_by_importance, learn_by_sampling
from bayesharm.inference.predictive_prior import make_predictive_prior, placeholder_prior
from bayesharm.inference.tails import scale_information
from bayesharm.likelihood.problem import Problem
from bayesharm.progress import Progress
from bayesharm.results.checkpoints import Arrays, Checkpoints

STAGES = ("features", "second run", "third run")  # of progress, one for each entry of the retry schedule
BLOCKS_PER_CHECKPOINT, FEATURES_PER_CHECKPOINT = 16, 1024  # whichever is less: some seconds of work
N_WORKERS = 2  # blocks at work at once: one keeps about one core busy; more where an accelerator does most of the work
_compiled_for: tuple[Problem, int, Settings] | None = None


def fit_features(context: FitContext, checkpoints: Checkpoints, progress: Progress) -> tuple[Hyperparameters, Arrays]:
    """Learn the hyperparameters, and summarize the posterior of every feature.

    Parameters
    ----------
    context : FitContext
    checkpoints : Checkpoints
        Finished chunks are kept there; those of an interrupted run are used.
    progress : Progress
    """
    _report_resumed(checkpoints, progress)
    if n_kept := context.settings.n_kept:
        size = n_kept * len(context.problem.log_medians) * context.n_features * np.dtype(np.float32).itemsize
        note = f"{n_kept} draws of each feature will take up to {size / 1e6:,.1f} MB in the run folder"
        progress("draws", 0, context.n_features, note)
    with _executor(context) as pool:
        fit = _fit_together if samples_together(context) else _fit_blocks
        hyper, results = fit(pool, context, checkpoints, progress)
    progress("features", context.n_features, context.n_features, _closing_note(context, results))
    return hyper, results


def samples_together(context: FitContext) -> bool:
    """Whether all features are sampled in the same chains as the hyperparameters."""
    is_small = context.n_features <= context.settings.hyper_features
    return is_small and not context.settings.preview and not context.design.spec.has_tails


def refit_features(
    context: FitContext, checkpoints: Checkpoints, progress: Progress, wanted: np.ndarray, retries: np.ndarray
) -> tuple[Hyperparameters, Arrays]:
    """Learn the hyperparameters again, and summarize some features, block by block as in the fit.

    Parameters
    ----------
    context, checkpoints, progress
        As for :func:`fit_features`.
    wanted : (feature,) bool array
    retries : (feature,) int array
        The last entry of the `RETRY_SCHEDULE` that each feature needed: it tells which features shared a block.

    Returns
    -------
    hyper : Hyperparameters
    results : dict of arrays
        As of :func:`fit_features`; NaN or 0 for features that were not computed.
    """
    _report_resumed(checkpoints, progress)
    with _executor(context) as pool:
        hyper, sample = _fit_shared_parameters(pool, context, checkpoints, progress)
        sampler, results = _make_sampler(context, hyper, sample), Arrays()
        size = context.block_size
        for retry in range(len(RETRY_SCHEDULE)):
            features, due = np.flatnonzero(retries >= retry), wanted & (retries == retry)
            blocks = [features[start : start + size] for start in range(0, len(features), size)]
            if not (blocks := [block for block in blocks if due[block].any()]):
                continue
            chunk = np.concatenate(blocks)
            for name, values in _sample_features(pool, sampler, checkpoints, progress, chunk, retry).items():
                missing = np.nan if values.dtype.kind == "f" else 0
                shape = (*values.shape[:-1], len(wanted))
                results.setdefault(name, np.full(shape, missing, values.dtype))[..., chunk[due[chunk]]] = values[
                    ..., due[chunk]
                ]
        return hyper, results


@contextmanager
def _executor(context: FitContext) -> Iterator[Executor]:
    """Run work in other threads, so that the main thread, which waits for it, can be interrupted at any time."""
    _keep_programs_of(context)
    n_workers = N_WORKERS if context.devices.is_cpu else max(N_WORKERS, (os.cpu_count() or 1) // 2)
    pool = ThreadPoolExecutor(n_workers)
    try:
        with single_threaded_blas():
            yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _report_resumed(checkpoints: Checkpoints, progress: Progress) -> None:
    if checkpoints.n_kept or checkpoints.damaged:
        note = f"damaged, computed again: {shorten(checkpoints.damaged)}" if checkpoints.damaged else "resuming"
        progress("checkpoints", checkpoints.n_kept, checkpoints.n_kept + len(checkpoints.damaged), note)


def _closing_note(context: FitContext, results: Arrays) -> str:
    n_failed = int((~results["converged"]).sum())
    bad, good = ("without a mode", "all modes found") if context.settings.preview else ("not converged", "all converged")
    note = f"{n_failed} of {context.n_features} {bad}" if n_failed else good
    if cost := leapfrog_cost(results, context.settings.chains):
        note += f"; {cost['mean']:.2f} leapfrog steps a draw, {cost['max_over_mean']:.2f} times as many in the slowest lane"
    return note


def _keep_programs_of(context: FitContext) -> None:
    """Drop programs compiled for another design or other sizes: those of twenty fits would fill the memory."""
    global _compiled_for
    n_sample = min(context.n_features, context.settings.hyper_features)
    wanted = (context.problem, n_sample, replace(context.settings, preview=False, keep_draws="none"))
    if _compiled_for != wanted:
        clear_programs()
        _compiled_for = wanted


def _fit_together(
    pool: Executor, context: FitContext, checkpoints: Checkpoints, progress: Progress
) -> tuple[Hyperparameters, Arrays]:
    """Sample the hyperparameters and all features, which are few, in the same chains."""
    kept, results = checkpoints.read("together-hyper"), checkpoints.read("together")
    if kept is not None and results is not None:
        return Hyperparameters.from_arrays(kept), results
    n_features = context.n_features
    progress("features", 0, n_features, "compiling, then sampling all features together with the hyperparameters")
    features = np.arange(n_features)
    moments, standardization = context.moments(features)
    report = partial(progress, "features", 0, n_features)
    hyper, joint = pool.submit(_learn, context, features, report).result()
    assert joint is not None
    arguments = context, features, hyper.ratios.mean, moments, standardization, joint.scales
    results = pool.submit(summarize_features, *arguments, log_ratios=joint.log_ratios).result()
    checkpoints.write("together-hyper", hyper.to_arrays())
    checkpoints.write("together", results)
    return hyper, results


def _learn(
    context: FitContext, features: np.ndarray, report: Callable[[str], object]
) -> tuple[Hyperparameters, SampledTogether | None]:
    """Learn the hyperparameters from features: by sampling them together, or by importance samples if there are more."""
    settings, problem, seed = context.settings, context.problem, context.seed
    if context.design.spec.has_tails:
        return _learn_with_tails(context, features, report), None
    arguments = problem, context.moments(features)[0], features, _count_independent(context, features)
    with context.devices.in_use("float64"):
        if not samples_together(context):
            hyper, is_reliable = learn_by_importance(*arguments, seed=seed, n_chains=settings.chains, on_iteration=report)
            if is_reliable or settings.preview:
                return hyper, None
            report("importance samples are not reliable here; sampling these features together")
        target_ess = settings.target_ess if samples_together(context) else 0  # the scales are sampled again
        return learn_by_sampling(
            *arguments, seed=seed, n_chains=settings.chains, n_draws=settings.n_draws, target_ess=target_ess,
            on_iteration=report,
        )  # fmt: skip


def _learn_with_tails(context: FitContext, features: np.ndarray, report: Callable[[str], object]) -> Hyperparameters:
    """Learn the tails of the noise too; the others are learned with the weights of scans that follow."""
    learned, n_chains = learn_weights(context, features, report), context.settings.chains
    arguments = context.problem, learned.moments, features, learned.n_independent_features
    with context.devices.in_use("float64"):
        hyper, is_reliable = learn_by_importance(*arguments, seed=context.seed, n_chains=n_chains, on_iteration=report)
        if not is_reliable:
            report("importance samples are not reliable here; sampling these features together")
            hyper, _ = learn_by_sampling(*arguments, seed=context.seed, n_chains=n_chains, target_ess=0, on_iteration=report)
    rng = np.random.default_rng([context.seed, Stage.TAILS, 1])
    wider = np.ones(context.problem.n_ratios)  # weights are not known: lambda is less certain than if they were
    wider[: context.problem.n_scanners] = scale_information(learned.tails.typical) ** -0.5
    ratios = hyper.ratios._replace(covariance=wider[:, None] * hyper.ratios.covariance * wider)
    tails = learned.tails.resample(hyper.eta.shape[:2], rng)
    return hyper._replace(tails=tails, ratios=ratios, is_reliable=tails.is_reliable)


def _count_independent(context: FitContext, features: np.ndarray) -> float:
    """Compute the effective number of independent features among those from which the hyperparameters are learned."""
    return count_independent_for_ratios(context.design, context.dataset.scans, context.values(features))


def _fit_blocks(
    pool: Executor, context: FitContext, checkpoints: Checkpoints, progress: Progress
) -> tuple[Hyperparameters, Arrays]:
    """Learn the hyperparameters from a sample of features, then sample every feature, block by block."""
    hyper, sample = _fit_shared_parameters(pool, context, checkpoints, progress)
    sampler = _make_sampler(context, hyper, sample)
    results = _sample_features(pool, sampler, checkpoints, progress, np.arange(context.n_features), 0)
    for retry in range(1, 1 if context.settings.preview else len(RETRY_SCHEDULE)):
        failed = np.flatnonzero(~results["converged"])
        if not len(failed):
            break
        for name, values in _sample_features(pool, sampler, checkpoints, progress, failed, retry).items():
            results[name][..., failed] = values
    return hyper, results


def _make_sampler(context: FitContext, hyper: Hyperparameters, sample: np.ndarray) -> BlockSampler | WeightedBlockSampler:
    """Make the sampler of blocks; features from which the hyperparameters were learned have prior weights."""
    problem = context.problem
    if hyper.tails is None:
        prior = make_predictive_prior(hyper, problem.hierarchy.offset_sd)
    else:
        prior = prior_without_one(problem, hyper)
    weights = np.zeros((len(prior.log_weight), context.n_features))
    weights[:, sample] = prior.log_weight
    prior = prior._replace(log_weight=weights)
    if hyper.tails is None:
        return BlockSampler(context, hyper.ratios.mean, prior)
    return WeightedBlockSampler(context, hyper.ratios.mean, prior, hyper.tails.typical)


def _fit_shared_parameters(
    pool: Executor, context: FitContext, checkpoints: Checkpoints, progress: Progress
) -> tuple[Hyperparameters, np.ndarray]:
    """Learn the hyperparameters from a sample of features; also return the sample."""
    n_sample = min(context.n_features, context.settings.hyper_features)
    rng = np.random.default_rng([context.seed, Stage.SAMPLE])
    if kept := checkpoints.read("hyper"):
        return Hyperparameters.from_arrays(kept), kept["sample"]
    sample = np.sort(rng.choice(context.n_features, n_sample, replace=False))
    report = partial(progress, "hyperparameters", 0, n_sample)
    report(f"from {n_sample} features")
    learning = pool.submit(_learn, context, sample, report)
    # weights are learned with the program of a block
    compilation = [] if context.design.spec.has_tails else [pool.submit(_compile, context, n_sample)]
    hyper, _ = learning.result()
    checkpoints.write("hyper", hyper.to_arrays() | {"sample": sample})
    wait(compilation)  # an error in it shows in the first block
    progress("hyperparameters", n_sample, n_sample, "done")
    return hyper, sample


def _compile(context: FitContext, n_sample: int) -> None:
    """Sample a block under a placeholder prior, so that its program is compiled when the hyperparameters are known."""
    prior = placeholder_prior(context.problem, n_sample, context.n_features)
    block = next(_blocks(np.arange(context.n_features), context.block_size))
    BlockSampler(context, context.problem.equal_ratios, prior).sample(block)


def _sample_features(
    pool: Executor,
    sampler: BlockSampler | WeightedBlockSampler,
    checkpoints: Checkpoints,
    progress: Progress,
    features: np.ndarray,
    retry: int,
) -> Arrays:
    """Summarize features, chunk by chunk; each chunk is kept as soon as it is finished."""
    n_features, size = len(features), sampler.context.block_size
    step = size * min(BLOCKS_PER_CHECKPOINT, max(1, FEATURES_PER_CHECKPOINT // size))
    stage, fate = STAGES[retry], "to run again" if retry + 1 < len(RETRY_SCHEDULE) else "not converged"
    chunks = [features[start : start + step] for start in range(0, n_features, step)]
    kept = [_read_chunk(checkpoints, f"features-{retry}-{k}", chunk) for k, chunk in enumerate(chunks)]
    blocks = [block for chunk, result in zip(chunks, kept, strict=True) if result is None for block in _blocks(chunk, size)]
    done = sum(len(chunk) for chunk, result in zip(chunks, kept, strict=True) if result is not None)
    failed = sum(int((~result["converged"]).sum()) for result in kept if result is not None)
    is_compiled = sampler.is_compiled
    progress(stage, done, n_features, "" if is_compiled or not blocks else "compiling, then sampling")
    sample, n_alone = partial(sampler.sample, retry=retry), 0 if is_compiled else 1  # the first block compiles for all
    first = [pool.submit(sample, block).result() for block in blocks[:n_alone]]
    finished = chain(first, pool.map(sample, blocks[n_alone:]))
    complete = []
    for k, chunk in enumerate(chunks):
        result = kept[k]
        if result is None:
            parts = []
            for _ in range(0, len(chunk), size):
                parts.append(next(finished))
                done, failed = done + len(parts[-1]["converged"]), failed + int((~parts[-1]["converged"]).sum())
                progress(stage, done, n_features, f"{failed} {fate}" if failed else "")
            result = join_features(parts)
            checkpoints.write(f"features-{retry}-{k}", result | {"features": chunk})
        complete.append(result)
    return join_features(complete)


def _read_chunk(checkpoints: Checkpoints, name: str, chunk: np.ndarray) -> Arrays | None:
    """Read a checkpoint, if it is of these features."""
    result = checkpoints.read(name)
    return result if result is not None and np.array_equal(result.pop("features"), chunk) else None


def _blocks(features: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Cut features into blocks of one size, the last one filled up with its last feature, so that one program serves all."""
    for start in range(0, len(features), size):
        block = features[start : start + size]
        yield np.pad(block, (0, size - len(block)), mode="edge")
