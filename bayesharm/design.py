"""From a table of scans and a model to columns, scales, noise classes and reported contrasts.

A *column* is one effect (one scanner's measurement bias, one population's sampling bias, …). Columns are
ordered so that the last ones, the *eliminated* ones, share no scan with one another: their block of the
normal equations is diagonal and is removed first (:mod:`bayesharm.marginal`). A *noise class* holds the scans
whose noise variance is the same function of the scales: scans of one scanner, of people scanned once or of
people scanned repeatedly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import sparse

from bayesharm.errors import InputError, ModelError, shorten
from bayesharm.spec import Family, ModelSpec

FIXED = -1  # scale index of columns whose prior sd is fixed: the mean and the covariates


@dataclass(frozen=True)
class Block:
    """Columns of one family, or the mean, or the covariates.

    Attributes
    ----------
    name : str
        `mean`, `covariate` or a family's name.
    levels : tuple of str
    matrix : (scan, level) sparse matrix
    scales : (level,) int array
        Which scale each level has (index into ``Design.scales``), or ``FIXED``.
    contrast : (level, level) array
        How its effects are reported.
    fixed_sd : float
        Prior sd where the scale is ``FIXED``, in standard deviations of the feature.
    """

    name: str
    levels: tuple[str, ...]
    matrix: sparse.csr_array
    scales: np.ndarray
    contrast: np.ndarray
    fixed_sd: float = np.inf


@dataclass(frozen=True)
class EffectGroup:
    """A reported family of effects: rows of contrasts over columns.

    Attributes
    ----------
    name, dim : str
        Name of the group, and of the dimension that its levels span.
    levels : tuple of str
    contrasts : (level, column) array
        Finite-population contrasts: each level minus the mean of the levels that share its scale.
    """

    name: str
    dim: str
    levels: tuple[str, ...]
    contrasts: np.ndarray


@dataclass(frozen=True)
class Design:
    """What the likelihood needs to know about a study; features are not in it.

    Attributes
    ----------
    spec : ModelSpec
    rows : (scan,) int array
        Rows of the scans table that the model uses.
    scanners : tuple of str
    scales : tuple of str
        Names of the scales; the first is `noise`.
    scale_medians : (scale,) array
        Prior medians, in standard deviations of a feature.
    columns : tuple of str
        ``family:level``, dense columns first.
    matrix : (scan, column) sparse matrix
    column_scale : (column,) int array
        Index into ``scales``, or ``FIXED``.
    column_sd : (column,) array
        Prior sd of fixed columns; infinite elsewhere.
    n_dense : int
        How many columns are not eliminated.
    scan_class, class_scanner, class_once : int and bool arrays
        Noise class of each scan; scanner of each class, and whether its people were scanned once.
    effects : tuple of EffectGroup
    participants : (scan,) array
        Who each scan is of.
    travelers : tuple of str
    once_scale : int
        Index of the participants' scale in the variance of people scanned once; 0 if nobody has a participant
        effect.
    notes : tuple of str
        Plain sentences about what was left out, and why.
    """

    spec: ModelSpec
    rows: np.ndarray
    scanners: tuple[str, ...]
    scales: tuple[str, ...]
    scale_medians: np.ndarray
    columns: tuple[str, ...]
    matrix: sparse.csr_array
    column_scale: np.ndarray
    column_sd: np.ndarray
    n_dense: int
    scan_class: np.ndarray
    class_scanner: np.ndarray
    class_once: np.ndarray
    effects: tuple[EffectGroup, ...]
    participants: np.ndarray
    travelers: tuple[str, ...]
    once_scale: int
    notes: tuple[str, ...]

    @property
    def n_scans(self) -> int:
        return len(self.rows)

    @property
    def class_size(self) -> np.ndarray:
        """Number of scans in each noise class."""
        return np.bincount(self.scan_class, minlength=len(self.class_scanner))


def build_design(scans: pd.DataFrame, spec: ModelSpec) -> Design:
    """Lay out the study for a model.

    Parameters
    ----------
    scans : DataFrame
        Canonical columns as in :class:`bayesharm.dataset.Dataset`.
    spec : ModelSpec

    Raises
    ------
    ModelError
        The study lacks what the model needs: travelers, the reference diagnosis.
    InputError
        A covariate is missing, constant, or has missing values.
    """
    traveling = _traveling(scans)
    if spec.needs_travelers and scans.groupby("participant_id").scanner.nunique().max() < 2:
        raise ModelError(
            f"The model {spec.name!r} needs traveling subjects, and nobody was scanned on two or more "
            "scanners.",
            got=f"{scans.participant_id.nunique()} participants, each on one scanner",
            expected="at least one participant_id on two or more scanners",
            do="check the participant column, or use --model cohort (its site effect is measurement and "
            "sampling bias together)",
        )
    rows = np.flatnonzero(traveling) if spec.people == "travelers" else np.arange(len(scans))
    used, traveling = scans.iloc[rows].reset_index(drop=True), traveling[rows]
    repeated = used.participant_id.map(used.participant_id.value_counts()).to_numpy() > 1
    scanners = tuple(sorted(used.scanner.unique()))

    notes: list[str] = []
    if len(rows) < len(scans):
        unused = len(scans) - len(rows)
        notes.append(f"{unused} scans of people who did not travel are not used by this model.")
    if left_out := sorted(set(scans.scanner) - set(scanners)):
        notes.append(
            f"No traveling subject was scanned on {shorten(left_out)}: this model says nothing about it."
        )
    scales, medians, blocks = ["noise"], [spec.noise_scale], [_mean_block(len(used), spec)]
    for family in spec.families:
        levels = _levels(family, used, traveling, repeated, spec, scanners, notes)
        if levels is None:
            continue
        labels, groups, names = levels
        index = {name: len(scales) + k for k, name in enumerate(dict.fromkeys(groups))}
        scales += index.keys()
        medians += [family.scale] * len(index)
        codes = pd.Index(names, dtype=object).get_indexer(labels)
        level_scales = np.array([index[group] for group in groups])
        contrast = _centring(level_scales) if family.by != "diagnosis" else np.eye(len(names))
        indicators = _indicators(codes, len(names))
        blocks.append(Block(family.name, tuple(names), indicators, level_scales, contrast))
    if spec.covariates:
        blocks.append(_covariate_block(used, spec))

    once_scale = next((int(b.scales[0]) for b in blocks if _by(spec, b.name) == "participant"), 0)
    once = ~repeated if once_scale else np.zeros(len(used), bool)
    codes = pd.Categorical(used.scanner, categories=scanners).codes.astype(int)
    classes, scan_class = np.unique(2 * codes + once, return_inverse=True)
    design = Design(
        spec=spec, rows=rows, scanners=scanners, scales=tuple(scales), scale_medians=np.array(medians),
        columns=(), matrix=sparse.csr_array((0, 0)), column_scale=np.array([]), column_sd=np.array([]),
        n_dense=0, scan_class=scan_class, class_scanner=classes // 2, class_once=(classes % 2).astype(bool),
        effects=(), participants=used.participant_id.to_numpy(object),
        travelers=tuple(sorted(used.participant_id[traveling].unique())), once_scale=once_scale,
        notes=tuple(notes),
    )
    return _with_columns(design, blocks, spec)


def _traveling(scans: pd.DataFrame) -> np.ndarray:
    """Scans of travelers: people on two or more scanners, or marked so by the user in any of their scans."""
    people = scans.groupby("participant_id")
    traveling = people.scanner.transform("nunique") > 1
    if "traveling" in scans:
        traveling |= people.traveling.transform("any")
    return traveling.to_numpy(bool)


def _by(spec: ModelSpec, name: str) -> str:
    return next((family.by for family in spec.families if family.name == name), name)


def _levels(
    family: Family, used: pd.DataFrame, traveling: np.ndarray, repeated: np.ndarray, spec: ModelSpec,
    scanners: Sequence[str], notes: list[str],
) -> tuple[np.ndarray, list[str], list[str]] | None:
    """Level of each scan (or None), the scale of each level, and the levels; None if there is nothing."""
    if family.by == "scanner":
        return used.scanner.to_numpy(object), [family.name] * len(scanners), list(scanners)
    if family.by == "participant":
        names = sorted(used.participant_id[repeated].unique())
        if not names:
            notes.append("Nobody was scanned twice: participant effects are part of the noise.")
            return None
        labels = used.participant_id.where(repeated, None).to_numpy(object)
        return labels, [family.name] * len(names), names
    if family.by == "diagnosis":
        if "diagnosis" not in used:
            notes.append(f"No diagnosis column: no {family.name} effects.")
            return None
        present = sorted(used.diagnosis.unique())
        if spec.reference not in present:
            raise ModelError(
                f"The reference diagnosis {spec.reference!r} is not in the table.",
                got=f"diagnoses {shorten(present)}", expected=f"some scans with diagnosis {spec.reference!r}",
                do="name the reference group with --reference, or leave the diagnosis column out",
            )
        names = [name for name in present if name != spec.reference]
        if not names:
            notes.append(f"Everybody is {spec.reference!r}: no {family.name} effects.")
            return None
        return used.diagnosis.to_numpy(object), [family.name] * len(names), names
    return _populations(family, used, traveling, notes)


def _populations(family: Family, used: pd.DataFrame, traveling: np.ndarray, notes: list[str]):
    """Populations (site × diagnosis) of people who did not travel, of diagnoses with two or more sites."""
    cohort = used[~traveling]
    if cohort.empty:
        notes.append(f"Everybody traveled: no {family.name} effects.")
        return None
    has_diagnosis = "diagnosis" in used
    labels = pd.Series(np.full(len(used), None, object))
    groups, names = [], []
    for diagnosis, people in cohort.groupby("diagnosis") if has_diagnosis else [("everybody", cohort)]:
        sites = sorted(people.site.unique())
        if len(sites) < 2:
            notes.append(f"{diagnosis}: recruited at {shorten(sites)} only, so that its sampling bias cannot "
                         "be told from what else is particular to that group.")
            continue
        label = people.site + "/" + str(diagnosis) if has_diagnosis else people.site
        labels[people.index] = label
        names += sorted(label.unique())
        group = f"{family.name}_{diagnosis}" if family.split and has_diagnosis else family.name
        groups += [group] * len(sites)
    return (labels.to_numpy(object), groups, names) if names else None


def _centring(groups: np.ndarray) -> np.ndarray:
    """Each level minus the mean of the levels of its group."""
    same = (groups[:, None] == groups[None, :]).astype(float)
    return np.eye(len(groups)) - same / same.sum(axis=1, keepdims=True)


def _indicators(codes: np.ndarray, n_levels: int) -> sparse.csr_array:
    scan = np.flatnonzero(codes >= 0)
    return sparse.csr_array((np.ones(len(scan)), (scan, codes[scan])), shape=(len(codes), n_levels))


def _mean_block(n_scans: int, spec: ModelSpec) -> Block:
    return Block("mean", ("mean",), sparse.csr_array(np.ones((n_scans, 1))), np.array([FIXED]), np.eye(1),
                 spec.priors.mean_sd)


def _covariate_block(used: pd.DataFrame, spec: ModelSpec) -> Block:
    """Standardized covariates: numbers as they are, categories as indicators against their first level."""
    missing = [name for name in spec.covariates if name not in used]
    if missing:
        raise InputError(f"The scans table has no covariate {shorten(missing)}.",
                         got=f"columns {shorten(used.columns, 30)}", expected="covariates that are columns",
                         do="correct --covariates")
    encoded = pd.concat([_encode(used, name) for name in dict.fromkeys(spec.covariates)], axis=1)
    sd = encoded.std(ddof=0).to_numpy()
    values = sparse.csr_array(((encoded - encoded.mean()) / sd).to_numpy())
    levels = tuple(str(name) for name in encoded.columns)
    fixed = np.full(len(levels), FIXED)
    return Block("covariate", levels, values, fixed, np.diag(1 / sd), spec.priors.slope_sd)


def _encode(used: pd.DataFrame, name: str) -> pd.DataFrame:
    """One covariate as columns of numbers, checked."""
    values = used[name]
    if values.dtype.kind in "Mm":
        raise InputError(f"The covariate {name!r} is neither numbers nor categories.", got=str(values.dtype),
                         expected="numbers or text", do="make it a number, such as years since a date")
    if (bad := values.isna() | values.isin([np.inf, -np.inf])).any():
        raise InputError(f"The covariate {name!r} has missing or infinite values.",
                         got=f"no value for scans {shorten(used.scan_id[bad])}",
                         expected="a value for every scan", do="complete the column or leave those scans out")
    if values.nunique() < 2:
        raise InputError(f"The covariate {name!r} is the same for every scan that the model uses.",
                         got=repr(values.iloc[0]), expected="covariates that vary",
                         do="leave it out of --covariates")
    if pd.api.types.is_numeric_dtype(values):
        return values.astype(float).to_frame()
    categories = values.astype("category").cat.remove_unused_categories()
    return pd.get_dummies(categories, prefix=name, drop_first=True, dtype=float)


def _with_columns(design: Design, blocks: list[Block], spec: ModelSpec) -> Design:
    """Order the columns, dense ones first, and write the contrasts that are reported."""
    matrix = sparse.hstack([block.matrix for block in blocks]).tocsr()
    names = [f"{block.name}:{level}" for block in blocks for level in block.levels]
    scale = np.concatenate([block.scales for block in blocks]).astype(int)
    sd = np.concatenate([np.where(block.scales == FIXED, block.fixed_sd, np.inf) for block in blocks])
    start = np.concatenate([[0], np.cumsum([len(block.levels) for block in blocks])])

    eliminated = np.zeros(len(names), bool)
    touched = np.zeros(matrix.shape[0], bool)
    for by in ("participant", "population", "scanner"):
        for j, block in enumerate(blocks):
            if _by(spec, block.name) == by:
                for column in range(start[j], start[j + 1]):
                    scans = matrix[:, [column]].nonzero()[0]
                    if not touched[scans].any():
                        touched[scans] = eliminated[column] = True
    order = np.argsort(eliminated, kind="stable")

    effects = []
    for j, block in enumerate(blocks[1:], start=1):
        contrast = np.zeros((len(block.levels), len(names)))
        contrast[:, start[j]:start[j + 1]] = block.contrast
        effects.append(EffectGroup(block.name, _by(spec, block.name), block.levels, contrast[:, order]))
    return replace(
        design, columns=tuple(names[k] for k in order), matrix=matrix[:, order].tocsr(),
        column_scale=scale[order], column_sd=sd[order], n_dense=int((~eliminated).sum()),
        effects=tuple(effects),
    )
