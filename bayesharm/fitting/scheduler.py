"""The work of a fit: what features share from a sample of them, then every feature, block by block."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from itertools import chain

import numpy as np

from bayesharm.algorithms.programs import clear_programs
from bayesharm.algorithms.random_streams import Stage
from bayesharm.errors import shorten
from bayesharm.fitting.block_sampler import RETRY_SCHEDULE, BlockSampler
from bayesharm.fitting.feature_summary import join_features, leapfrog, summarize_features
from bayesharm.fitting.settings import Settings
from bayesharm.fitting.study import FitContext
from bayesharm.inference.effective_features import count_independent_for_ratios
from bayesharm.inference.hyperparameters import Hyperparameters, fit_hyperparameters
from bayesharm.inference.joint import FEW_FEATURES, LEAST_DRAWS, Joint, sample_joint
from bayesharm.inference.predictive_prior import make_predictive_prior, placeholder_prior
from bayesharm.inference.scales import approximate_block, sample_block
from bayesharm.inference.variance_ratios import pick_features
from bayesharm.likelihood.problem import Problem
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.progress import Progress
from bayesharm.results.checkpoints import Arrays, Checkpoints

STAGES = ("features", "second run", "third run")  # of each round
BLOCKS_OF_A_PART, FEATURES_OF_A_PART = 16, 1024  # that are kept together, whichever are fewer: some seconds of work
MOST_TOGETHER = 48  # features of a study that are sampled together with what they share where nodes do not resolve that
N_WORKERS = 2  # blocks at work at once: one keeps about one core busy, and more where an accelerator does most of the work
_compiled_for: tuple[Problem, int, Settings] | None = None


def run_study(study: FitContext, parts: Checkpoints, progress: Progress) -> tuple[Hyperparameters, Arrays]:
    """What features share, and summaries of every feature.

    Parameters
    ----------
    study : Study
    parts : Checkpoints
        Where finished parts are kept, and may be from before.
    progress : callable
    """
    n_features = len(study.dataset.features.names)
    _report_resumed(parts, progress)
    if n_kept := study.settings.n_kept:
        size = n_kept * len(study.problem.log_medians) * n_features * np.dtype(np.float32).itemsize
        progress("draws", 0, n_features, f"{n_kept} of each feature will take up to {size / 1e6:,.1f} MB in the run folder")
    _keep_programs_of(study)
    # Work is done apart from the main thread, which waits for it and so can be interrupted at any time.
    pool = _make_executor(study)
    try:
        few = n_features <= FEW_FEATURES and not study.settings.preview
        hyper, results = (_fit_few if few else _fit_many)(pool, study, parts, progress)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    n_failed = int((~results["converged"]).sum())
    bad, good = ("without a mode", "all modes found") if study.settings.preview else ("not converged", "all converged")
    note = f"{n_failed} of {n_features} {bad}" if n_failed else good
    if took := leapfrog(results, study.settings.chains):
        note += f"; {took['mean']:.2f} leapfrog steps a draw, {took['max_over_mean']:.2f} times as many in the slowest lane"
    progress("features", n_features, n_features, note)
    return hyper, results


def _make_executor(study: FitContext) -> Executor:
    return ThreadPoolExecutor(N_WORKERS if study.devices.is_cpu else max(N_WORKERS, (os.cpu_count() or 1) // 2))


def _report_resumed(parts: Checkpoints, progress: Progress) -> None:
    if parts.kept or parts.damaged:
        note = f"damaged, computed again: {shorten(parts.damaged)}" if parts.damaged else "going on where it stopped"
        progress("kept parts", parts.kept, parts.kept + len(parts.damaged), note)


def _keep_programs_of(study: FitContext) -> None:
    """Drop what was compiled for another design or other sizes: all would fill the memory after some twenty fits."""
    global _compiled_for
    n_sample = min(len(study.dataset.features.names), study.settings.hyper_features)
    wanted = (study.problem, n_sample, replace(study.settings, preview=False, keep_draws="none"))
    if _compiled_for != wanted:
        clear_programs()
        _compiled_for = wanted


def _fit_few(pool: Executor, study: FitContext, parts: Checkpoints, progress: Progress) -> tuple[Hyperparameters, Arrays]:
    """Everything in one chain of draws."""
    n_features = len(study.dataset.features.names)
    kept, found = parts.read("together-hyper"), parts.read("together")
    if kept is not None and found is not None:
        return Hyperparameters.from_arrays(kept), found
    progress("features", 0, n_features, "compiling, then sampling all together with what they share")
    n_draws = max(LEAST_DRAWS, study.settings.n_draws)
    every = np.arange(n_features)
    moments, standard = study.moments(every)
    joint = pool.submit(_sample_together, study, every, n_draws).result()
    described = study, every, joint.hyper.ratios.mean, moments, standard, joint.scales
    found = pool.submit(summarize_features, *described).result()
    parts.write("together-hyper", joint.hyper.to_arrays())
    parts.write("together", found)
    return joint.hyper, found


def _sample_together(study: FitContext, features: np.ndarray, n_draws: int) -> Joint:
    moments, n_effective = study.moments(features)[0], _count_effective(study, features)
    with study.devices.in_use("float64"):
        return sample_joint(
            study.problem, moments, n_effective, seed=study.seed, n_chains=study.settings.chains, n_draws=n_draws
        )


def _count_effective(study: FitContext, features: np.ndarray) -> float:
    """As how many independent features those count that ratios are learned from."""
    few = features[pick_features(len(features))]
    return count_independent_for_ratios(study.design, study.dataset.scans, study.values(few))


def _fit_many(pool: Executor, study: FitContext, parts: Checkpoints, progress: Progress) -> tuple[Hyperparameters, Arrays]:
    """What features share from a sample of them, then every feature, block by block."""
    learned = None if parts.read("together") is not None else _fit_shared_parameters(pool, study, parts, progress)
    if learned is None:
        return _fit_few(pool, study, parts, progress)
    hyper, sample = learned
    work = _sampler(study, hyper, sample)
    n_features = len(study.dataset.features.names)
    results = _sample_features(pool, work, parts, progress, np.arange(n_features), 0)
    for turn in range(1, 1 if study.settings.preview else len(RETRY_SCHEDULE)):
        failed = np.flatnonzero(~results["converged"])
        if not len(failed):
            break
        again = _sample_features(pool, work, parts, progress, failed, turn)
        for name, values in again.items():
            results[name][..., failed] = values
    return hyper, results


def run_again(
    study: FitContext, parts: Checkpoints, progress: Progress, wanted: np.ndarray, turns: np.ndarray
) -> tuple[Hyperparameters, Arrays]:
    """What features share, and summaries of some features: of the blocks that they were part of, and no others.

    Parameters
    ----------
    study, parts, progress
        As for :func:`run_study`.
    wanted : (feature,) bool array
    turns : (feature,) int array
        The last of the `RETRY_SCHEDULE` in which each feature was sampled: who was in a block with whom.

    Returns
    -------
    hyper : Hyper
    results : dict of arrays
        As of :func:`run_study`; features that were not computed are NaN or 0.
    """
    _report_resumed(parts, progress)
    _keep_programs_of(study)
    pool = _make_executor(study)
    try:
        learned = _fit_shared_parameters(pool, study, parts, progress)
        assert learned is not None  # so few features are all computed again
        hyper, sample = learned
        work, results = _sampler(study, hyper, sample), Arrays()
        size = study.block_size
        for turn in range(len(RETRY_SCHEDULE)):
            features, due = np.flatnonzero(turns >= turn), wanted & (turns == turn)
            blocks = [features[start : start + size] for start in range(0, len(features), size)]
            if not (blocks := [block for block in blocks if due[block].any()]):
                continue
            share = np.concatenate(blocks)
            for name, values in _sample_features(pool, work, parts, progress, share, turn).items():
                nothing = np.nan if values.dtype.kind == "f" else 0
                whole = results.setdefault(name, np.full((*values.shape[:-1], len(wanted)), nothing, values.dtype))
                whole[..., share[due[share]]] = values[..., due[share]]
        return hyper, results
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _sampler(study: FitContext, hyper: Hyperparameters, sample: np.ndarray) -> BlockSampler:
    """What samples a block, given what features share and the features that taught it."""
    mixture = make_predictive_prior(hyper)
    weights = np.zeros((len(mixture.log_weight), len(study.dataset.features.names)))
    weights[:, sample] = mixture.log_weight
    return BlockSampler(study, hyper.ratios.mean, mixture._replace(log_weight=weights))


def _fit_shared_parameters(
    pool: Executor, study: FitContext, parts: Checkpoints, progress: Progress
) -> tuple[Hyperparameters, np.ndarray] | None:
    """What features share, and the features that taught it; None where it takes all of a few, sampled together."""
    n_features, settings = len(study.dataset.features.names), study.settings
    rng = np.random.default_rng([study.seed, Stage.SAMPLE])
    n_sample = min(n_features, settings.hyper_features)
    if kept := parts.read("hyper"):
        return Hyperparameters.from_arrays(kept), kept["sample"]
    sample = np.sort(rng.choice(n_features, n_sample, replace=False))
    moments, _ = study.moments(sample)
    progress("hyperparameters", 0, n_sample, f"from {n_sample} features")

    n_effective = _count_effective(study, sample)

    def note_progress(note: str) -> None:
        progress("hyperparameters", 0, n_sample, note)

    def update_posterior() -> Hyperparameters | None:
        with study.devices.in_use("float64"):
            return fit_hyperparameters(
                study.problem,
                moments,
                sample,
                n_effective,
                seed=study.seed,
                preview=settings.preview,
                on_iteration=note_progress,
            )

    ahead = pool.submit(_compile, study, n_sample)
    hyper = pool.submit(update_posterior).result()
    if hyper is None and n_features <= MOST_TOGETHER:
        note_progress("they do not settle; all features are sampled together with what they share, which takes some minutes")
        return None
    if hyper is None:  # what nodes cannot resolve, fewer features teach together
        sample = sample[np.unique(np.linspace(0, n_sample - 1, FEW_FEATURES).astype(int))]
        note_progress(
            f"they do not settle; sampling {len(sample)} features together with what they share, which takes some minutes"
        )
        hyper = pool.submit(_sample_together, study, sample, LEAST_DRAWS // 2).result().hyper
    parts.write("hyper", hyper.to_arrays() | {"sample": sample})
    wait([ahead])  # whatever is wrong with it, the first block says
    progress("hyperparameters", n_sample, n_sample, "done")
    return hyper, sample


def _compile(study: FitContext, n_sample: int) -> None:
    """Sample a block under a prior that means nothing, so that its program is there when hyperparameters are."""
    n_features = len(study.dataset.features.names)
    mixture = placeholder_prior(study.problem, n_sample, n_features)
    block = next(_blocks(np.arange(n_features), study.block_size))
    BlockSampler(study, VarianceRatios.equal(study.problem.n_scanners), mixture).sample(block)


def _sample_features(
    pool: Executor,
    work: BlockSampler,
    parts: Checkpoints,
    progress: Progress,
    features: np.ndarray,
    turn: int,
) -> Arrays:
    """Summaries of features, each part of them kept as soon as it is there."""
    n_features, size = len(features), work.study.block_size
    step = size * min(BLOCKS_OF_A_PART, max(1, FEATURES_OF_A_PART // size))
    stage, after = STAGES[turn], "to run again" if turn + 1 < len(RETRY_SCHEDULE) else "not converged"
    shares = [features[start : start + step] for start in range(0, n_features, step)]
    kept = [_read_share(parts, f"features-{turn}-{k}", share) for k, share in enumerate(shares)]
    blocks = [block for share, found in zip(shares, kept, strict=True) if found is None for block in _blocks(share, size)]
    done = sum(len(share) for share, found in zip(shares, kept, strict=True) if found is not None)
    program = approximate_block if work.study.settings.preview else sample_block
    there = program.n_compiled > 0
    progress(stage, done, n_features, "" if there or not blocks else "compiling, then sampling")
    sample, n_alone = partial(work.sample, turn=turn), 0 if there else 1  # that compiles for all
    first = [pool.submit(sample, block).result() for block in blocks[:n_alone]]
    finished = chain(first, pool.map(sample, blocks[n_alone:]))
    failed, complete = sum(int((~found["converged"]).sum()) for found in kept if found is not None), []
    for k, share in enumerate(shares):
        part = kept[k]
        if part is None:
            found = []
            for _ in range(0, len(share), size):
                found.append(next(finished))
                done, failed = done + len(found[-1]["converged"]), failed + int((~found[-1]["converged"]).sum())
                progress(stage, done, n_features, f"{failed} {after}" if failed else "")
            part = join_features(found)
            parts.write(f"features-{turn}-{k}", part | {"features": share})
        complete.append(part)
    return join_features(complete)


def _read_share(parts: Checkpoints, name: str, share: np.ndarray) -> Arrays | None:
    """A part, if it is of these features."""
    found = parts.read(name)
    return found if found is not None and np.array_equal(found.pop("features"), share) else None


def _blocks(features: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Blocks of one size, the last one filled up with its last feature, so that one program serves all."""
    for start in range(0, len(features), size):
        block = features[start : start + size]
        yield np.pad(block, (0, size - len(block)), mode="edge")
