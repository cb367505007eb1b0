"""Fit a model to a study: from a dataset to its posterior and the run folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from importlib.metadata import version
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from bayesharm.block import Settings, Study
from bayesharm.checkpoints import keep_parts
from bayesharm.dataset import Dataset, load_dataset
from bayesharm.design import Design, build_design
from bayesharm.engine import Report, run_study
from bayesharm.errors import InputError, shorten
from bayesharm.inference.devices import find_devices
from bayesharm.inference.problem import make_problem
from bayesharm.labels import label_posterior
from bayesharm.posterior import FORMAT, Posterior, load_posterior
from bayesharm.protocol import name_factors
from bayesharm.repair import repair_run
from bayesharm.run_folders import check_output
from bayesharm.spec import UNITS, ModelSpec, load_model

PACKAGES = ("bayesharm", "jax", "numpyro", "numpy", "pandas", "xarray", "zarr")
LARGEST_VARIANCE = 1e200  # sums of products stay finite


def fit(
    dataset: Dataset,
    model: str | ModelSpec = "traveling_and_cohort",
    *,
    seed: int = 0,
    covariates: Sequence[str] = (),
    protocol: Sequence[str] = (),
    reference: str | None = None,
    units: str | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    repair: bool = False,
    report: Report | None = None,
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
    units : {'each', 'shared'}, optional
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
    report : callable, optional
        Told about progress.
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
    spec = choose_model(model, dataset, covariates=covariates, protocol=protocol, reference=reference, units=units)
    if unknown := sorted(settings.keys() - {field.name for field in fields(Settings)}):
        raise InputError(
            "Unknown settings.",
            got=shorten(unknown),
            expected="some of " + ", ".join(field.name for field in fields(Settings)),
            do="correct the name, or leave it out",
        )
    chosen = Settings(**settings)
    _check(chosen, seed)
    dataset = sort_dataset(dataset)
    design = build_design(dataset.scans, spec)
    devices = find_devices(chosen.device)
    plan = _plan(dataset, design, seed, chosen) | {"devices": str(devices)}
    with devices.in_use("float64"):
        problem, unit = make_problem(design), _unit_of(dataset, design)
        study = Study(dataset, design, problem, unit, plan["seed"], chosen, devices)
        if repair and out is not None:
            repair_run(out, study, plan, report or (lambda *event: None))
            return load_posterior(out)
        with keep_parts(out, plan, overwrite) as parts:  # all that can be refused has been
            hyper, results = run_study(study, parts, report or (lambda *event: None))
            posterior = label_posterior(dataset, design, hyper, results, plan)
            if out is not None:
                posterior.write(out)
    return posterior


def choose_model(
    model: str | ModelSpec,
    dataset: Dataset,
    *,
    covariates: Sequence[str] = (),
    protocol: Sequence[str] = (),
    reference: str | None = None,
    units: str | None = None,
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
    if units is not None:
        if units not in UNITS:
            raise InputError(
                "Unknown units.",
                got=repr(units),
                expected=f"one of {', '.join(UNITS)}",
                do="leave it out: each feature then has its own",
            )
        spec = replace(spec, units=units)
    return spec


def reopen(posterior: Posterior, dataset: Dataset | None = None) -> Study:
    """The study that a run is of, for what needs the scans themselves.

    Parameters
    ----------
    posterior : Posterior
    dataset : Dataset, optional
        That of the fit; by default it is read from where it was then.

    Raises
    ------
    InputError
        The data are not there, or are not those of the fit.
    """
    run = posterior.run
    if run.get("learned"):
        raise InputError(
            "An adapted posterior has no data of its own.",
            got="the posterior of a fit that has learned from more scans",
            expected="the posterior of a fit",
            do="take that, or fit again with all scans",
        )
    origin: dict[str, Any] | None = run.get("data")
    if dataset is None:
        if not origin:
            raise InputError(
                "The run does not say where its data are.",
                got="a fit of data in memory",
                expected="the dataset of the fit",
                do="give it too",
            )
        absent = [origin[name] for name in ("scans", "features") if name in origin and not Path(origin[name]).exists()]
        if absent:
            raise InputError(
                "The data of the run are no longer where they were.",
                got=f"no file {shorten(absent)}",
                expected="the scans and the features of the fit",
                do="name both after the run: bayesharm … RUN SCANS FEATURES (in Python: give the dataset)",
            )
        dataset = load_dataset(**origin)
    dataset = sort_dataset(dataset)
    found = {"fingerprint": dataset.features.fingerprint(), "scans": _hash_scans(dataset)}
    if changed := [what for name, what in (("scans", "scans"), ("fingerprint", "features")) if found[name] != run[name]]:
        raise InputError(
            "These are not the data that the run was fitted to.",
            got=f"other {' and '.join(changed)}: {len(dataset.scans):,} scans × {dataset.features.n_features:,} features",
            expected=f"the {run['n_features']:,} features and the scans of the fit, unchanged",
            do="give the data of the fit, read with the same options",
        )
    devices = find_devices()
    design = build_design(dataset.scans, posterior.spec)
    with devices.in_use("float64"):
        problem, unit = make_problem(design), _unit_of(dataset, design)
        return Study(dataset, design, problem, unit, run["seed"], Settings(**run["settings"]), devices)


def _hash_scans(dataset: Dataset) -> str:
    return hashlib.sha256(dataset.scans.to_csv(index=False).encode()).hexdigest()


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


def sort_dataset(dataset: Dataset) -> Dataset:
    """Scans in an order of their own, so that the order of the table does not even change rounding."""
    keys = [dataset.scans[name].to_numpy(str) for name in ("scan_id", "scanner", "participant_id")]
    order = np.lexsort(keys)
    scans = dataset.scans.iloc[order].reset_index(drop=True)
    return replace(dataset, scans=scans, features=dataset.features.align(order))


def _unit_of(dataset: Dataset, design: Design) -> float | None:
    """The unit that all features share, if they do; refuses features that do not vary over the scans in use, or too much.

    Raises
    ------
    InputError
    """
    n_features, squares = len(dataset.features.names), 0.0
    flat: list[str] = []
    extreme: list[str] = []
    for start, stop in dataset.features.blocks():
        with np.errstate(over="ignore", invalid="ignore"):  # told below
            values = dataset.features.read(start, stop)[design.rows]
            variance, varies = values.var(axis=0), values.max(axis=0) > values.min(axis=0)
        names = dataset.features.names[start:stop]
        flat += list(names[~varies])
        extreme += list(names[varies & ~((variance > 1 / LARGEST_VARIANCE) & (variance < LARGEST_VARIANCE))])
        squares += variance.sum()
    if flat or extreme:
        limits = f"a variance between {1 / LARGEST_VARIANCE:.0e} and {LARGEST_VARIANCE:.0e}"
        raise InputError(
            f"Some features {'do not vary' if flat else 'are too small or too large'} over the scans that the model uses.",
            got=shorten(flat or extreme),
            expected="at least two different values" if flat else limits,
            do="leave these features out" + ("" if flat else ", or give them in another unit"),
        )
    return float(np.sqrt(squares / n_features)) if design.spec.units == "shared" else None


