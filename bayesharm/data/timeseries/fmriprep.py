"""Region time series from the images of fMRIPrep, with nilearn: an atlas, a brain mask and confounds."""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from bayesharm.data.readers.files import cut, list_files
from bayesharm.data.readers.labels import read_labels
from bayesharm.data.timeseries.formats import import_nibabel, require_file
from bayesharm.data.timeseries.regions import LEAST_SHARED
from bayesharm.data.timeseries.series import ScanSource, Series
from bayesharm.data.timeseries.sources import name_scan, refuse_repeated, select_by_name
from bayesharm.errors import BayesharmError, InputError, shorten
from bayesharm.io.limits import refuse_expansion
from bayesharm.io.tables import is_path

Confounds = Literal["simple", "scrubbing", "compcor", "ica_aroma", "none"]
BOLD, MASK = "_desc-preproc_bold.nii", "_desc-brain_mask.nii"
MOTION = "framewise_displacement"


@dataclass(frozen=True, eq=False)
class Atlas:
    """A label image.

    Attributes
    ----------
    path : Path
    image : Nifti1Image
    names : dict
        Label in the image -> name of the region, in the order of the labels.
    """

    path: Path
    image: Any
    names: dict[int, str]


def find_images(
    source: Any, atlas_image: Any, labels: Any, confounds: str, match: str | None = None
) -> tuple[list[ScanSource], list[str]]:
    """Find the preprocessed BOLD images in a folder of fMRIPrep; time series are extracted later.

    Parameters
    ----------
    source : path or sequence of paths
        The folder, or images in it.
    atlas_image, labels, confounds, match
        As for :func:`bayesharm.connectivity`.

    Returns
    -------
    scans : list of ScanSource
    regions : list of str
        All regions of the atlas.

    Raises
    ------
    InputError
        There are no images, or several of one scan, or one has no mask or confounds, or the atlas cannot be used.
    BayesharmError
        nilearn is not installed.
    """
    if confounds not in get_args(Confounds):
        raise InputError(
            "This strategy of denoising does not exist.",
            got=f"confounds={confounds!r}",
            expected=" or ".join(map(repr, get_args(Confounds))),
            do="choose one of these",
        )
    _check_nilearn()
    atlas = read_atlas(Path(atlas_image), labels)
    paths = [Path(path) for path in ([source] if is_path(source) else source)]
    files = [file for path in paths for file in (list_files(path) if path.is_dir() else [path])]
    images = [file for file in files if BOLD in file.name and file.name.endswith((".nii", ".nii.gz"))]
    images = select_by_name(images, match)
    if not images:
        raise InputError(
            "There are no preprocessed BOLD images.",
            got=f"{shorten(paths, 2)}: {len(files):,} files" + (f", none like {match!r}" if match else ""),
            expected="the folder of fMRIPrep, with files *_desc-preproc_bold.nii.gz",
            do="name the folder that holds sub-*",
        )
    _refuse_incomplete(images, confounds)
    scans = [ScanSource(name_scan(path), str(path), partial(extract, path, atlas, confounds)) for path in images]
    refuse_repeated(scans)
    return scans, list(atlas.names.values())


def read_atlas(path: Path, labels: Any) -> Atlas:
    """Read a label image and the names of its regions; without labels, regions are named by number.

    Raises
    ------
    InputError
        The image cannot be read or holds no labels, or regions have no name.
    """
    image, values = _read_image(path, "the atlas")
    numbers = np.unique(values)
    if values.ndim != 3 or not np.isfinite(numbers).all() or (numbers != np.round(numbers)).any() or numbers.max() < 1:
        got = f"shape {values.shape}, {len(numbers):,} values from {numbers[0]:g} to {numbers[-1]:g}"
        raise _refuse(path, "The atlas cannot be used.", got, "a 3D image of whole numbers, 0 outside of the regions",
                      "give the label image of the atlas, not a probability map or an image of a scan")  # fmt: skip
    present = [int(number) for number in numbers if number != 0]
    if labels is None:
        named = {number: str(number) for number in present}
    elif is_path(labels):
        named = {int(number): name for number, name in read_labels(labels).items() if number.isdecimal()}
    else:
        named = dict(zip(present, map(str, labels), strict=False))
    if without := [number for number in present if number not in named]:
        raise _refuse(path, "Some regions of the atlas have no name.", f"no name for the labels {shorten(without)}",
                      "a name for every label in the image", "give the label file of this atlas")  # fmt: skip
    return Atlas(path, image, {number: named[number] for number in present})


def extract(path: Path, atlas: Atlas, confounds: str) -> Series:
    """Extract the mean signal of each region in the brain mask, without the confounds.

    The atlas is resampled to the scan. A region that vanishes, or is outside of the mask, is missing: nilearn drops its
    column, and the others are identified by their numbers.

    Raises
    ------
    InputError
        An image or the confounds are damaged, or the atlas does not cover the brain.
    """
    image, (mask, _) = _open_image(path, "a scan"), _read_image(mask_of(path), "a brain mask")
    if image.ndim != 4 or image.shape[3] < 2:
        raise _refuse(path, "A scan is not a time series.", f"shape {image.shape}", "four dimensions", "leave it out")
    regressors, kept, columns = _load_confounds(path, confounds)
    from nilearn.maskers import NiftiLabelsMasker

    masker = NiftiLabelsMasker(atlas.image, mask_img=mask, standardize=False, resampling_target="data", reports=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about regions that vanish: they are counted below
            values = masker.fit_transform(image, confounds=regressors, sample_mask=kept)
    except Exception as error:  # nilearn, nibabel and zlib raise a dozen types of error for damaged images
        raise _refuse(path, "The time series of a scan cannot be extracted.", cut(error),
                      "a complete image, a mask and confounds of the same volumes",
                      "run fMRIPrep again for this scan, or leave it out") from None  # fmt: skip
    found = [int(masker.region_ids_[k]) for k in range(values.shape[1])]
    if len(found) < LEAST_SHARED * len(atlas.names):
        got = f"{len(found):,} of {len(atlas.names):,} regions are in the brain mask"
        raise _refuse(path, "The atlas does not fit a scan.", got, "an atlas in the space of the images",
                      "give the atlas in this space, or choose images of its space (--match)")  # fmt: skip
    n_regressors = 0 if regressors is None else np.shape(regressors)[1]
    names = tuple(atlas.names[number] for number in found)
    return Series(values, names, image.shape[3] - len(values), n_regressors, columns)


def mask_of(image: Path) -> Path:
    """Return the path of the brain mask that belongs to an image."""
    return image.with_name(image.name.replace(BOLD, MASK))


def confounds_of(image: Path) -> Path:
    """Return the path of the table of confounds that belongs to an image: it has the entities of the raw image only."""
    return image.with_name(f"{name_scan(image)}_desc-confounds_timeseries.tsv")


def _load_confounds(path: Path, strategy: str) -> tuple[Any, Any, dict[str, float]]:
    """Return regressors, the volumes to keep (None for all), and the mean framewise displacement if it is known."""
    if strategy == "none":
        return None, None, {}
    from nilearn.interfaces.fmriprep import load_confounds_strategy

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            regressors, kept = load_confounds_strategy(str(path), denoise_strategy=strategy)
            motion = _mean_motion(confounds_of(path))
    except Exception as error:  # pandas and nilearn raise several types of error for tables that lack something
        raise _refuse(confounds_of(path), "The confounds of a scan cannot be used.", cut(error),
                      f"the table and the .json file of fMRIPrep with the columns of the strategy '{strategy}'",
                      "choose another strategy (--confounds), or run fMRIPrep again for this scan") from None  # fmt: skip
    return regressors, kept, motion


def _mean_motion(table: Path) -> dict[str, float]:
    import pandas as pd

    confounds = pd.read_csv(table, sep="\t", na_values="n/a")
    return {"mean_fd": float(confounds[MOTION].mean())} if MOTION in confounds else {}


def _refuse_incomplete(images: Sequence[Path], confounds: str) -> None:
    """Refuse images without a mask or confounds, all of them together."""
    masks, tables = map(mask_of, images), map(confounds_of, images if confounds != "none" else ())
    lacking = {"brain mask": [each for each in masks if not each.exists()]}
    lacking |= {"confounds": [each for each in tables if not each.exists()]}
    for what, names in lacking.items():
        if names:
            raise InputError(
                f"Some scans have no {what}.",
                got=f"{len(names):,} of {len(images):,} scans: no {shorten((each.name for each in names), 3)}",
                expected="the files of fMRIPrep beside each image",
                do="copy them there" + (", or choose confounds='none' (--confounds none)" * (what == "confounds")),
            )


def _open_image(path: Path, what: str) -> Any:
    nibabel = import_nibabel("Images")
    require_file(path)
    try:
        image = nibabel.load(path)
        size = math.prod(map(int, image.shape)) * image.get_data_dtype().itemsize
    except Exception as error:  # nibabel and zlib raise several types of error
        raise _damaged(path, what, error) from None
    refuse_expansion(path, path.stat().st_size, size)
    return image


def _read_image(path: Path, what: str) -> tuple[Any, np.ndarray]:
    image = _open_image(path, what)
    try:
        return image, np.asarray(image.dataobj)
    except Exception as error:
        raise _damaged(path, what, error) from None


def _damaged(path: Path, what: str, error: Exception) -> InputError:
    got = cut(error) or type(error).__name__
    return _refuse(path, f"The image of {what} cannot be read.", got, "a complete NIfTI file", "get the file again")


def _check_nilearn() -> None:
    if importlib.util.find_spec("nilearn") is None:
        raise BayesharmError("Images need nilearn, which is not installed.", do="pip install 'bayesharm[nilearn]'")


def _refuse(path: Path, what: str, got: str, expected: str, do: str) -> InputError:
    return InputError(what, got=f"{path}: {got}", expected=expected, do=do)
