"""The main job: from a dataset to its posterior and the run folder."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayesharm.data.dataset import Dataset
from bayesharm.data.finding import Finding, refuse_errors
from bayesharm.errors import InputError
from bayesharm.fitting.settings import Settings
from bayesharm.model.catalog import AUTO
from bayesharm.model.configure import configure_model, resolve_model, screen_study
from bayesharm.model.design import Design, build_design
from bayesharm.model.spec import ModelSpec
from bayesharm.progress import Progress, no_progress
from bayesharm.results.run_folder import check_output
from bayesharm.study_check.check import check as check_study
from bayesharm.study_check.result import StudyCheck

if TYPE_CHECKING:
    from bayesharm.algorithms.devices import Devices
    from bayesharm.results.posterior import Posterior

PACKAGES = ("bayesharm", "formulaic", "jax", "numpyro", "numpy", "pandas", "xarray", "zarr")  # whose versions a run records


def fit(
    dataset: Dataset,
    model: str | ModelSpec = AUTO,
    *,
    seed: int = 0,
    covariates: Sequence[str] = (),
    formula: str = "",
    protocol: Sequence[str] = (),
    reference: str | None = None,
    feature_scaling: str | None = None,
    gain: str | None = None,
    noise_ratio: str | None = None,
    noise_weight: str | None = None,
    likelihood: str | None = None,
    time: str | None = None,
    accept: Sequence[str] = (),
    notes: Sequence[str] = (),
    findings: Sequence[Finding] | None = None,
    check: StudyCheck | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    repair: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Posterior:
    """Sample the joint posterior of all sources of differences between scans, for every feature.

    Parameters
    ----------
    dataset : Dataset
        From :func:`bayesharm.load_dataset`.
    model : str or ModelSpec
        The name of a model (``bayesharm models`` lists them), or a folder with a ``model.toml``. By default `auto`: the
        model that suits the study (:func:`bayesharm.model.automatic.choose_model`); the notes of the run say which, and why.
    seed : int
        The same seed gives the same result on the same machine with the same versions.
    covariates : sequence of str
        Columns of the scans table with a linear effect on every feature.
    formula : str
        More covariates by a formula, such as ``bs(age, df=4) + sex + age:sex`` (see ``docs/how-to/formulas.md``).
    protocol : sequence of str
        Columns that describe the scanners, in place of the protocol factors of the model.
    reference : str, optional
        The reference diagnosis of disorder effects; default: that of the model, `HC`.
    feature_scaling : {'per_feature', 'common'}, optional
        Divide each feature by its own sd (the default, right for any mixture of measures), or all features by one number
        (better where all are of one kind, such as the edges of a connectome).
    gain : {'none', 'scanner'}, optional
        Whether each scanner has a gain, a factor on differences between people; default: as in the model.
    noise_ratio : {'homogeneous', 'scanner', 'scanner-feature'}, optional
        Whether scanners have noise variance ratios, shared by all features, or around these one for each feature; default:
        as in the model, `scanner`.
    noise_weight : str, optional
        Column with the noise variance of each scan relative to other scans, such as one over its number of volumes.
    likelihood : {'gaussian', 'student-t'}, optional
        Noise that is Gaussian (the default), or has heavy tails: then single bad scans or values hardly matter, and the
        summary lists the scans with the smallest weights.
    time : str, optional
        Column on which the trajectories of participants depend, in place of that of the model, `time`.
    accept : sequence of str
        Codes of findings on the data that you have checked, such as ``identical-scans``: they no longer stop the fit and are
        recorded as caveats (see ``docs/reference/tables.md``); ``all`` accepts every one.
    notes : sequence of str
        Sentences for the notes of the run, such as why its model was chosen.
    findings : sequence of Finding, optional
        Findings of :func:`bayesharm.screen` on this dataset, if it has been screened already; errors among them are refused.
    check : StudyCheck, optional
        The result of :func:`bayesharm.check` on this dataset and model, to be recorded in the run folder; by default it is
        made here if there is one.
    out : path, optional
        Write the run folder there. It also keeps finished blocks of features: the same call resumes an interrupted run
        where it stopped, with the same result.
    overwrite : bool
        Start afresh where `out` holds a run, finished or not; that run is removed at once.
    repair : bool
        `out` holds a finished run of the same data, model, seed, settings and versions: compute its damaged files again,
        and replace them if they get the same bytes as before.
    progress : callable, optional
        Receives progress (:class:`bayesharm.progress.Progress`).
    **settings
        Settings of the inference: `chains`, `draws`, `target_ess`, `block_size`, `dtype`, `keep_draws` and others, see
        :class:`bayesharm.Settings`. The defaults suit every study.

    Returns
    -------
    Posterior

    Raises
    ------
    ModelError, InputError, RunFolderError
        The tables contradict themselves (all problems at once, before anything is computed or written), the study does not
        fit the model, an option is impossible, or `out` is not free: it holds other files, a finished
        run, or an unfinished run of other inputs; or it cannot be repaired.
    """
    folder = None if out is None else Path(out)
    _check_folder(folder, overwrite, repair)
    model, on_choice = resolve_model(model, dataset.scans, time)
    notes = (*on_choice, *notes)
    spec = configure_model(
        model, dataset, covariates=covariates, formula=formula, protocol=protocol, reference=reference,
        feature_scaling=feature_scaling, gain=gain, noise_ratio=noise_ratio, noise_weight=noise_weight,
        likelihood=likelihood, time=time,
    )  # fmt: skip
    chosen = Settings.from_options(settings, spec.has_tails)
    _check_seed(seed)
    progress = progress or no_progress
    findings = screen_study(dataset, spec, accept, time) if findings is None else list(findings)
    refuse_errors(findings)
    if folder is not None and not repair and check is None:
        check = check_study(dataset, spec, findings=findings)
    dataset = dataset.sorted()
    design = build_design(dataset.scans, spec)

    from bayesharm.algorithms.devices import find_devices  # JAX, after all that can be refused without it
    from bayesharm.fitting.assembly import assemble_posterior
    from bayesharm.fitting.context import make_fit_context
    from bayesharm.fitting.repair import repair_run
    from bayesharm.fitting.scheduler import fit_features
    from bayesharm.results.checkpoints import open_checkpoints
    from bayesharm.results.posterior import load_posterior

    devices = find_devices(chosen.device)
    manifest = _make_manifest(dataset, design, int(seed), chosen, devices)
    context = make_fit_context(dataset, design, int(seed), chosen, devices)
    if repair and folder is not None:
        with devices.in_use("float64"):
            repair_run(folder, context, manifest, progress)
        return load_posterior(folder)
    with devices.in_use("float64"), open_checkpoints(folder, manifest, overwrite) as checkpoints:
        hyper, results = fit_features(context, checkpoints, progress)
        posterior = assemble_posterior(context.dataset, design, hyper, results, manifest, findings, check, notes)
        if folder is not None:
            posterior.write(folder)
    return posterior


def _check_folder(folder: Path | None, overwrite: bool, repair: bool) -> None:
    """Refuse a run folder that is not free, and a repair without one."""
    if repair and (folder is None or overwrite):
        raise InputError(
            "A repair needs a finished run.",
            got="overwrite, which removes the run" if overwrite else "no out",
            expected="the folder of a finished run, which stays",
            do="give the folder of the run as out, without overwrite",
        )
    if folder is not None:
        check_output(folder, resume=True, overwrite=overwrite, repair=repair)


def _check_seed(seed: int) -> None:
    if not isinstance(seed, Integral) or not 0 <= seed < 2**32:
        raise InputError(
            "The seed cannot be used.",
            got=repr(seed),
            expected="a whole number from 0 to 4294967295",
            do="choose another --seed",
        )


def _make_manifest(dataset: Dataset, design: Design, seed: int, settings: Settings, devices: Devices) -> dict[str, Any]:
    """Return everything on which the result depends."""
    from bayesharm.fitting.context import hash_scans
    from bayesharm.results.posterior import FORMAT

    return {
        "format": FORMAT,
        "spec": design.spec.to_dict(),
        "seed": seed,
        "settings": settings.to_dict(),
        "versions": {name: version(name) for name in PACKAGES},
        "transform": dataset.features.transform,
        "features": dataset.features.fingerprint(),
        "scans": hash_scans(dataset),
        "devices": str(devices),
    }
