"""Fit a model to a study: from a dataset to its posterior and the run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from importlib.metadata import version
from numbers import Integral
from pathlib import Path
from typing import Any

from bayesharm.algorithms.devices import find_devices
from bayesharm.data.dataset import Dataset
from bayesharm.errors import InputError, shorten
from bayesharm.fitting.assembly import label_posterior
from bayesharm.fitting.repair import repair_run
from bayesharm.fitting.scheduler import run_study
from bayesharm.fitting.settings import Settings
from bayesharm.fitting.study import FitContext, _hash_scans, _unit_of
from bayesharm.likelihood.problem import make_problem
from bayesharm.model.catalog import load_model
from bayesharm.model.design import Design, build_design
from bayesharm.model.protocol_factors import name_factors
from bayesharm.model.spec import FEATURE_SCALINGS, ModelSpec
from bayesharm.progress import Progress, no_progress
from bayesharm.results.checkpoints import keep_parts
from bayesharm.results.posterior import FORMAT, Posterior, load_posterior
from bayesharm.results.run_folder import check_output

PACKAGES = ("bayesharm", "jax", "numpyro", "numpy", "pandas", "xarray", "zarr")


def fit(
    dataset: Dataset,
    model: str | ModelSpec = "traveling_and_cohort",
    *,
    seed: int = 0,
    covariates: Sequence[str] = (),
    protocol: Sequence[str] = (),
    reference: str | None = None,
    feature_scaling: str | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    repair: bool = False,
    progress: Progress | None = None,
    **settings: Any,
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
    protocol : sequence of str
        Columns that describe the scanners, in place of the protocol factors of the model.
    reference : str, optional
        The diagnosis that disorder effects are measured against; default: the model's, `HC`.
    feature_scaling : {'per_feature', 'common'}, optional
        Compare the scales of features in each feature's own sd (the default: right for any mixture of measures), or in
        one unit for all (better where all features are of one kind, such as the edges of a connectome).
    out : path, optional
        Write the run folder there. Finished blocks of features are kept in it, so that a run that was interrupted goes on
        where it stopped, with the same result, when it is started again in the same way.
    overwrite : bool
        Start afresh where `out` holds a run already, finished or not; it is removed at once.
    repair : bool
        `out` holds a finished run of the same data, model, seed, settings and versions: compute again what is damaged in
        it, if that comes out as it was.
    progress : callable, optional
        Receives progress (:class:`bayesharm.progress.Progress`).
    **settings
        How the inference works: `chains`, `draws`, `target_ess`, `block_size`, `dtype`, `keep_draws` and others, see
        :class:`bayesharm.Settings`. Nobody should need them.

    Returns
    -------
    Posterior

    Raises
    ------
    ModelError, InputError, RunFolderError
        The study does not fit the model, an option is impossible, or `out` holds something already: other files, a
        finished run, or an unfinished one that was started otherwise; or it cannot be repaired.
    """
    out = None if out is None else Path(out)
    if repair and (out is None or overwrite):
        raise InputError(
            "A repair needs the run that it mends.",
            got="overwrite, which removes it" if overwrite else "no out",
            expected="a finished run, which stays",
            do="give the folder of the run as out, without overwrite",
        )
    if out is not None:
        check_output(out, resume=True, overwrite=overwrite, repair=repair)
    spec = configure_model(
        model, dataset, covariates=covariates, protocol=protocol, reference=reference, feature_scaling=feature_scaling
    )
    if unknown := sorted(settings.keys() - {field.name for field in fields(Settings)}):
        raise InputError(
            "Unknown settings.",
            got=shorten(unknown),
            expected="some of " + ", ".join(field.name for field in fields(Settings)),
            do="correct the name, or leave it out",
        )
    chosen = Settings(**settings)
    _check(chosen, seed)
    dataset = dataset.sorted()
    design = build_design(dataset.scans, spec)
    devices = find_devices(chosen.device)
    plan = _plan(dataset, design, seed, chosen) | {"devices": str(devices)}
    with devices.in_use("float64"):
        problem, unit = make_problem(design), _unit_of(dataset, design)
        study = FitContext(dataset, design, problem, unit, plan["seed"], chosen, devices)
        if repair and out is not None:
            repair_run(out, study, plan, progress or no_progress)
            return load_posterior(out)
        with keep_parts(out, plan, overwrite) as parts:  # all that can be refused has been
            hyper, results = run_study(study, parts, progress or no_progress)
            posterior = label_posterior(dataset, design, hyper, results, plan)
            if out is not None:
                posterior.write(out)
    return posterior


def configure_model(
    model: str | ModelSpec,
    dataset: Dataset,
    *,
    covariates: Sequence[str] = (),
    protocol: Sequence[str] = (),
    reference: str | None = None,
    feature_scaling: str | None = None,
) -> ModelSpec:
    """The model that :func:`fit` fits, with what the user has chosen; parameters as there.

    Raises
    ------
    ModelError, InputError
    """
    spec = load_model(model) if isinstance(model, str) else model
    if covariates:
        spec = replace(spec, covariates=(covariates,) if isinstance(covariates, str) else tuple(covariates))
    if protocol:
        spec = name_factors(spec, protocol, dataset.scans)
    if reference is not None:
        spec = replace(spec, reference=reference)
    if feature_scaling is not None:
        if feature_scaling not in FEATURE_SCALINGS:
            raise InputError(
                "Unknown feature_scaling.",
                got=repr(feature_scaling),
                expected=f"one of {', '.join(FEATURE_SCALINGS)}",
                do="leave it out: each feature then has its own",
            )
        spec = replace(spec, feature_scaling=feature_scaling)
    return spec


def _plan(dataset: Dataset, design: Design, seed: int, settings: Settings) -> dict[str, Any]:
    """All that the result depends on."""
    return {
        "format": FORMAT,
        "spec": design.spec.to_dict(),
        "seed": int(seed),
        "settings": {name: value for name, value in asdict(settings).items() if name != "device"},  # `devices` says which
        "versions": {name: version(name) for name in PACKAGES},
        "features": dataset.features.fingerprint(),
        "scans": _hash_scans(dataset),
    }


def _check(settings: Settings, seed: int) -> None:
    least = {"chains": 2, "draws": 8, "target_ess": 8, "effect_draws": 10, "keep_draws": 0}
    others: dict[str, tuple] = {"dtype": ("float32", "float64"), "preview": (False, True)}  # than numbers
    words: dict[str, tuple] = {"draws": (None,), "block_size": (None,), "keep_draws": ("none", "thin", "all")}
    for name, value in asdict(settings).items():
        number = isinstance(value, int) and not isinstance(value, bool) and value >= least.get(name, 1)
        if name == "device" or (value in others[name] if name in others else number or value in words.get(name, ())):
            continue
        expected = [repr(word) for word in others.get(name, words.get(name, ()))]
        raise InputError(
            f"The setting {name!r} is impossible.",
            got=repr(value),
            expected=" or ".join(expected + ([] if name in others else [f"a whole number, {least.get(name, 1)} or more"])),
            do="leave it out: the default serves",
        )
    if settings.preview and settings.n_kept:
        raise InputError(
            "A preview has no draws to keep.",
            got=f"keep_draws={settings.keep_draws!r} with preview",
            expected="one of the two",
            do="leave one of them out",
        )
    if not isinstance(seed, Integral) or not 0 <= seed < 2**32:
        raise InputError(
            "The seed cannot be used.",
            got=repr(seed),
            expected="a whole number from 0 to 4294967295",
            do="choose another --seed",
        )
