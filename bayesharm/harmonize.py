"""Take a scanner's effect out of its scans, with the uncertainty of that effect, in the user's own units."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bayesharm.dataset import Dataset
from bayesharm.errors import BayesharmError, InputError, shorten
from bayesharm.features import Features
from bayesharm.io.writing import create_matrix
from bayesharm.posterior import Posterior
from bayesharm.spec import ModelSpec


@dataclass(frozen=True, eq=False)
class Harmonized:
    """Scans without the effect of their scanner; rows and columns in the order of the input.

    Attributes
    ----------
    scan_id : (scan,) str array
    names : (feature,) str array
    mean : (scan, feature) array
        Input minus the posterior mean of the effect, in the input's units and floating type (integers become
        float64). What was missing is missing.
    sd : (scan, feature) array
        Posterior sd of the effect that was subtracted, same units; missing where the input is.
    removed : str
        The family of effects that was removed.
    notes : tuple of str
        What the user should know: features left out or not converged, what else was removed with the effect.
    """

    scan_id: np.ndarray
    names: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    removed: str
    notes: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """`mean` as a table, scans by `scan_id` × features."""
        return pd.DataFrame(self.mean, index=pd.Index(self.scan_id, name="scan_id"), columns=self.names)


def harmonize(posterior: Posterior, dataset: Dataset, *, remove: str | None = None) -> Harmonized:
    """Subtract from every scan the centred effect of its scanner.

    Works for the scans of the fit, and for new scans and people on some or all of its scanners.

    Parameters
    ----------
    posterior : Posterior
    dataset : Dataset
        From :func:`bayesharm.load_dataset`, for new scans with ``check="apply"``.
    remove : str, optional
        A family of effects by scanner; default: what the model is made to remove (`measurement`; in `cohort`,
        `site`).

    Warns
    -----
    UserWarning
        For each of `Harmonized.notes`.

    Raises
    ------
    InputError
        A scanner is unknown to the posterior, or features of the fit are absent.
    """
    job = _prepare(posterior, dataset, remove)
    shape = (len(dataset.scans), job.features.n_features)
    mean, sd = np.empty(shape, job.dtype), np.empty(shape, job.sd_dtype)
    for part, values, spread in job.blocks():
        mean[:, part], sd[:, part] = values, spread
    for note in job.notes:
        warnings.warn(note, stacklevel=2)
    scan_id = dataset.scans["scan_id"].to_numpy(str)
    return Harmonized(scan_id, job.features.names, mean, sd, job.removed, job.notes)


def harmonize_to_files(
    posterior: Posterior,
    dataset: Dataset,
    mean: str | os.PathLike[str],
    sd: str | os.PathLike[str] | None = None,
    *,
    remove: str | None = None,
    report: Callable[[int, int], None] | None = None,
) -> tuple[str, ...]:
    """The same as :func:`harmonize`, block by block into files: large data are never in memory as a whole.

    Parameters
    ----------
    posterior, dataset, remove
        As in :func:`harmonize`.
    mean, sd : path
        .npy, .csv, .tsv or .parquet; replaced if they exist. Only .npy is not held in memory. Beside what comes from a
        preview lies ``<file>.PREVIEW.txt``, which says so.
    report : callable, optional
        Receives the numbers of features done and in total.

    Returns
    -------
    tuple of str
        Notes as in `Harmonized`; no warnings are issued.

    Raises
    ------
    InputError
        As in :func:`harmonize`, or a file has an unknown format or no folder; nothing is written then.
    BayesharmError
        The files could not be written.
    """
    job = _prepare(posterior, dataset, remove)
    labels = {"scan_ids": dataset.scans["scan_id"].to_numpy(str), "names": job.features.names}
    try:
        with ExitStack() as files:
            mean_file = files.enter_context(create_matrix(mean, dtype=job.dtype, **labels))
            sd_file = None
            if sd is not None:
                sd_file = files.enter_context(create_matrix(sd, dtype=job.sd_dtype, **labels))
            for part, values, spread in job.blocks():
                mean_file[:, part] = values
                if sd_file is not None:
                    sd_file[:, part] = spread
                if report is not None:
                    report(part.stop, job.features.n_features)
            for path in (mean, sd):
                if path is not None:
                    _label(Path(path), posterior.remark)
    except OSError as error:
        raise BayesharmError(
            "The harmonized features could not be written.",
            got=str(error),
            do="make room, or choose another place; nothing was left behind",
        ) from error
    return job.notes


def _label(file: Path, remark: str) -> None:
    """Say beside a file what must be said of it: arrays have no room for words."""
    label = file.with_name(f"{file.name}.PREVIEW.txt")
    if remark:
        label.write_text(f"{file.name}: {remark}\n", encoding="utf-8")
    else:
        label.unlink(missing_ok=True)  # of an earlier file of this name


@dataclass(frozen=True, eq=False)
class _Job:
    """What is subtracted from which features: `mean`, `sd` are (scanner, feature), `scanner` is (scan,)."""

    features: Features
    mean: np.ndarray
    sd: np.ndarray
    scanner: np.ndarray
    removed: str
    notes: tuple[str, ...]

    @property
    def dtype(self) -> np.dtype:
        given = self.features.dtype
        return given if given.kind == "f" else np.dtype(np.float64)

    @property
    def sd_dtype(self) -> np.dtype:
        """In half precision a small sd would round to 0, which is to say: certain."""
        return np.promote_types(self.dtype, np.float32)

    def blocks(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Columns, harmonized values and sds, (scan, block) each, a block of features at a time."""
        for start, stop in self.features.blocks():
            part = slice(start, stop)
            values = self.features.read(start, stop)
            spread = np.where(np.isnan(values), np.nan, self.sd[self.scanner, part])
            values -= self.mean[self.scanner, part]
            yield part, values, spread


def _prepare(posterior: Posterior, dataset: Dataset, remove: str | None) -> _Job:
    """Check that the posterior speaks about these scans and features, and line both up."""
    removed = _family(posterior, remove)
    effect = posterior.effect(removed)
    known = pd.Index(effect["scanner"].values.astype(object))
    scanner = known.get_indexer(pd.Index(dataset.scans["scanner"]))
    if (scanner < 0).any():
        unseen = dataset.scans["scanner"][scanner < 0]
        raise InputError(
            "The fit knows nothing about some of the scanners.",
            got=f"{len(unseen)} scans from {shorten(unseen.unique())}",
            expected=f"scanners of the fit: {shorten(known, 50)}",
            do="leave these scans out, write the scanners as in the fit, or fit again with scans of them",
        )
    features, at, left_out = _match(posterior, dataset.features)
    notes = [*filter(None, [posterior.remark]), *_on_meaning(posterior.spec, removed), *left_out]
    converged = posterior.tree["scales"].to_dataset()["converged"].values[at]
    if not converged.all():
        names = features.names[~converged]
        notes.append(
            f"Features that have not converged ({names.size} of {features.n_features}) are "
            f"harmonized all the same, but do not rely on them: {shorten(names)}."
        )
    mean, sd = (effect[name].values[:, at] for name in ("mean", "sd"))
    return _Job(features, mean, sd, scanner, removed, tuple(notes))


def _family(posterior: Posterior, remove: str | None) -> str:
    spec = posterior.spec
    there = [spec.removes, *(f.name for f in spec.families if f.by == "scanner" and f.name not in spec.parts)]
    if remove is not None and remove not in there:
        raise InputError(
            f"{remove!r} effects cannot be removed.",
            got=f"remove={remove!r}",
            expected=f"a family of effects by scanner: {', '.join(there)}",
            do="choose one of these",
        )
    return remove or spec.removes


def _match(posterior: Posterior, features: Features) -> tuple[Features, np.ndarray, list[str]]:
    """Features that the posterior knows, in the order of the dataset; their places there; a note."""
    known, dropped = pd.Index(posterior.features), posterior.run.get("dropped", {})
    if features.matrix.names is None and features.n_features != len(known) + len(dropped):
        # Numbers given to columns that have no names mean something only if they count the same columns.
        raise InputError(
            "The features have no names, and their number is not that of the fit.",
            got=f"{features.n_features} features",
            expected=f"{len(known) + len(dropped)}, in the order of the fit",
            do="give the same columns as in the fit, or label the features of both by name",
        )
    there = pd.Index(features.names)
    if len(absent := known.difference(there, sort=False)):
        raise InputError(
            "Features of the fit are absent.",
            got=f"{features.n_features} features: {shorten(features.names)}",
            expected=f"the {len(known)} features of the fit; {len(absent)} are absent: {shorten(absent)}",
            do="give (or choose with the same glob) the features that the model was fitted to",
        )
    at = known.get_indexer(there)
    extra = features.names[at < 0]
    if not extra.size:
        return features, at, []
    note = f"Features that were not part of the fit are left out ({extra.size:,}): {shorten(extra, 3)}"
    if reasons := [dropped[name] for name in extra.tolist() if name in dropped]:
        note += f"; unfit there: {len(reasons):,}, the first one {reasons[0]}"
    return features.take(features.names[at >= 0]), at[at >= 0], [note + "."]


def _on_meaning(spec: ModelSpec, removed: str) -> list[str]:
    """Say what goes with the effect where the model does not separate measurement from sampling bias."""
    if spec.people == "travelers" or any(family.by == "population" for family in spec.families):
        return []
    return [
        f"The {removed} effects of this model are measurement and sampling bias together: real "
        "differences between the people recruited at different sites are removed with them."
    ]
