"""The posterior: one labelled tree, and the run folder that holds it.

A run folder has ``posterior.zarr`` (an xarray ``DataTree`` that ``xarray.open_datatree`` opens;
:mod:`bayesharm.results.schema` declares its contents) and ``run.json`` (model, seed, versions, fingerprint of the data,
sha256 of every file), which is written last: without it a folder is not a run.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesharm.errors import BayesharmError, RunFolderError, shorten
from bayesharm.io.atomic import digests, find_damage, write_whole
from bayesharm.io.zarr_stores import check_store
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.spec import ModelSpec
from bayesharm.model.spec_rules import spec_from_dict
from bayesharm.results.checkpoints import RECORD, TREE, UNFINISHED
from bayesharm.results.labels import for_disk, for_memory
from bayesharm.results.record import FORMAT as FORMAT
from bayesharm.results.record import PREVIEW as PREVIEW
from bayesharm.results.record import read_record, to_json
from bayesharm.results.run_folder import check_output, contents_of, run_state
from bayesharm.results.schema import SCANNER_RATIOS, chunk_sizes, find_faults

if TYPE_CHECKING:
    import xarray as xr

# Reasons why a feature is marked, the gravest first; `/scales/reason` holds the position in this list.
REASONS = ("converged", "not finite", "no mode", "divergences", "R-hat", "few effective draws")
MAX_UNIT_RATIO = 100  # of the sds of two features that may share a unit


def may_share_unit(sds: np.ndarray) -> bool:
    """Whether features with these sds, (feature,), may share a unit."""
    return bool(sds.max() < MAX_UNIT_RATIO * sds.min())


@dataclass(frozen=True)
class Posterior:
    """Labeled result of a fit.

    Attributes
    ----------
    tree : xarray.DataTree
        Groups ``hyper``, ``scales``, ``effects/<family>``, ``design`` and, in most runs, ``finite_population``,
        ``sufficient_statistics`` and ``draws``; see :mod:`bayesharm.results.schema`.
    run : dict
        Model, seed, settings, versions, fingerprint of the data, notes.
    """

    tree: xr.DataTree
    run: Mapping[str, Any]

    @property
    def spec(self) -> ModelSpec:
        """The specification of the model."""
        return spec_from_dict(self.run["spec"])

    @property
    def preview_notice(self) -> str:
        """The notice that accompanies every result made from a preview; empty for a full fit."""
        return PREVIEW if self.run["settings"].get("preview") else ""

    @property
    def hyper(self) -> xr.Dataset:
        """Draws of the hyperparameters and of the variance ratios of scanners."""
        return self.tree["hyper"].to_dataset()

    @property
    def scales(self) -> xr.Dataset:
        """Scales of each family in each feature, and convergence of each feature."""
        return self.tree["scales"].to_dataset()

    @property
    def error_pattern(self) -> np.ndarray:
        """Error patterns of the features, (entry, feature): how errors are correlated over features."""
        return self.tree["error_patterns"].to_dataset()["error_pattern"].values

    @property
    def finite_population(self) -> xr.Dataset:
        """Sizes of the effects of each family in each feature.

        Raises
        ------
        RunFolderError
            The posterior is a preview, or was adapted.
        """
        if "finite_population" not in self.tree.children:
            raise RunFolderError(
                "This run has no variance components.",
                got="a preview" if self.preview_notice else "an adapted posterior, or a run without /finite_population",
                expected="the run folder of a full fit",
                do="fit without --preview" if self.preview_notice else "use the posterior of the fit",
            )
        return self.tree["finite_population"].to_dataset()

    @property
    def size_draws(self) -> xr.Dataset | None:
        """Draws of the sizes of all features together; None in runs that sampled the features one by one."""
        return self.tree["size_draws"].to_dataset() if "size_draws" in self.tree.children else None

    @property
    def design(self) -> xr.Dataset:
        """Scanners of the study: component, numbers of scans and travelers."""
        return self.tree["design"].to_dataset()

    @property
    def sufficient_statistics(self) -> xr.Dataset:
        """Sums of products of the scans, from which the posterior adapts to new ones.

        Raises
        ------
        RunFolderError
            The posterior has none.
        """
        if "sufficient_statistics" not in self.tree.children:
            raise RunFolderError(
                "The posterior has no sufficient statistics of its scans, so that it cannot adapt to new ones.",
                got="a run folder without /sufficient_statistics",
                expected="the run folder of a fit",
                do="fit again",
            )
        return self.tree["sufficient_statistics"].to_dataset()

    @property
    def features(self) -> list[str]:
        """Names of the features."""
        return [str(name) for name in self.scales["feature"].values]

    @property
    def scanners(self) -> list[str]:
        """Names of the scanners."""
        return [str(name) for name in self.design["scanner"].values]

    @property
    def is_single_modality(self) -> bool:
        """Whether the features may share a unit: their sds differ by less than a factor of `MAX_UNIT_RATIO`."""
        return may_share_unit(self.scales["feature_scale"].values)

    def variance_ratios(self, scanners: Sequence[str] | None = None) -> VarianceRatios:
        """Posterior means of all log ratios of scanners, for unknown ones the log of the mean ratio; and of atanh rho."""
        hyper: Any = self.hyper
        wanted = np.array(self.scanners if scanners is None else list(scanners), object)
        means = [np.log(hyper[name]).mean(("chain", "draw")) for name in SCANNER_RATIOS]
        known = [mean.reindex(scanner=wanted, fill_value=np.log(np.exp(mean).mean())).values for mean in means]
        rho = hyper["slope_correlation"].values if "slope_correlation" in hyper else np.zeros((1, 1, 0))
        return VarianceRatios(*(*known, np.arctanh(rho).mean((0, 1))))

    def __repr__(self) -> str:
        return (
            f"<Posterior of {self.spec.name!r}: {len(self.features):,} features, {len(self.scanners)} scanners, "
            f"{self.run['n_scans']:,} scans{', PREVIEW' if self.preview_notice else ''}>"
        )

    def _repr_html_(self) -> str:
        from bayesharm.results.posterior_card import posterior_card

        return posterior_card(self.tree, self.run, self.spec.name, self.preview_notice)

    def to_arviz(self) -> xr.DataTree:
        """Return what all features share in the groups that ArviZ expects, for its statistics and plots.

        Draws of single features, and log-likelihoods, come from ``bayesharm.feature_draws``.

        Returns
        -------
        DataTree
            `posterior`: the arrays of ``/hyper`` that the model estimates; `prior`: as many draws from their hyperpriors,
            for ``arviz.plot_prior_posterior``; `log_prior`: log prior densities of the posterior draws, for
            ``arviz.psense(…, group="prior")``.
        """
        from bayesharm.results.arviz_groups import to_groups

        return to_groups(self.hyper, self.spec)

    @property
    def effect_families(self) -> list[str]:
        """Names of the families with effects, in alphabetical order, since files are listed in any order."""
        return sorted(self.tree["effects"].children)

    def effect(self, family: str) -> xr.Dataset:
        """Mean and sd of a family's effects, in the features' units: finite-population contrasts.

        Parameters
        ----------
        family : str
            Such as `measurement`, `sampling`, `disorder`, `participant`.

        Raises
        ------
        RunFolderError
            The model has no such family; the message lists those it has.
        """
        if family not in self.effect_families:
            raise RunFolderError(
                f"This posterior has no {family!r} effects.",
                expected=f"one of {shorten(self.effect_families)}",
                do="choose one of these, or fit a model that has them",
            )
        return self.tree["effects"][family].to_dataset()

    def save(self, folder: str | Path) -> Path:
        """Write the run folder; it appears only when it is complete.

        Parameters
        ----------
        folder : path
            Must not exist, or be empty.

        Raises
        ------
        RunFolderError
            The folder holds something already, or cannot be written.
        """
        folder = Path(folder)
        if run_state(folder) != "empty":
            raise RunFolderError(
                f"{folder} already holds {run_state(folder)}.",
                got=contents_of(folder),
                expected="a new or empty folder",
                do="choose another name",
            )
        check_output(folder)
        new = not folder.exists()
        try:
            self.write(folder)
        except BaseException:  # an interruption too leaves nothing
            (folder / RECORD).unlink(missing_ok=True)
            shutil.rmtree(folder if new else folder / TREE, ignore_errors=True)
            raise
        return folder

    def write(self, folder: Path) -> None:
        """Write the run into a folder that may hold its checkpoints; ``run.json`` comes last.

        Raises
        ------
        RunFolderError
        """
        with self.write_aside(folder) as tree:
            run = {**self.run, "files": digests(tree)}
            run.pop("sha256", None)  # of a folder that this was read from
            if (folder / TREE).exists():  # of a run that was interrupted here
                shutil.rmtree(folder / TREE)
            tree.rename(folder / TREE)
        write_whole(folder / RECORD, to_json({**run, "sha256": hashlib.sha256(to_json(run)).hexdigest()}))

    @contextmanager
    def write_aside(self, folder: Path) -> Iterator[Path]:
        """Write the tree beside its place and flush it to the disk; files that the caller does not move are removed.

        Raises
        ------
        RunFolderError
            The files cannot be written.
        """
        unfinished = folder / UNFINISHED
        try:
            folder.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=".", dir=unfinished if unfinished.exists() else folder))
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
                    tree = self.tree.map_over_datasets(for_disk)
                    tree.to_zarr(partial / TREE, consolidated=False, encoding=chunk_sizes(tree))
                for path in (partial / TREE).rglob("*"):
                    if path.is_file():
                        with path.open("r+b") as file:
                            os.fsync(file.fileno())
                yield partial / TREE
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        except OSError as error:
            raise RunFolderError(
                f"{folder} could not be written.", got=str(error), do="make room, or choose another --out, and try again"
            ) from None


def load_posterior(folder: str | Path) -> Posterior:
    """Open a run folder.

    Parameters
    ----------
    folder : path

    Raises
    ------
    RunFolderError
        There is no run, it is half-written or damaged, or another version of the format wrote it.
    """
    import xarray as xr

    folder = Path(folder)
    run = read_record(folder)
    try:
        if damaged := find_damage(folder / TREE, run["files"]):
            raise ValueError(f"{shorten(damaged)}: missing, changed or not of the run")
        check_store(folder / TREE, allow_links=False)
        tree = xr.open_datatree(folder / TREE, engine="zarr", consolidated=False)
        tree = tree.map_over_datasets(for_memory)
        if faults := find_faults(tree):
            raise ValueError(shorten(faults))
    except Exception as error:  # xarray and zarr raise a dozen types of error for damaged files
        raise RunFolderError(
            f"{folder} cannot be read.",
            got=f"{error.what} {error.got}" if isinstance(error, BayesharmError) else str(error) or repr(error),
            expected="the files that bayesharm wrote",
            do="give the command bayesharm fit that made it once more, with --repair: what is damaged is computed again",
        ) from None
    return Posterior(tree, run)
