"""From a table of scans and a model to columns, scales, noise classes and reported contrasts.

A *column* is one effect (one scanner's measurement bias, one population's sampling bias, …). Columns are
ordered so that the last ones, the *eliminated* ones, share no scan with one another: their block of the
normal equations is diagonal and is removed first (:mod:`bayesharm.likelihood.marginal`). A *noise class* holds the scans
whose noise variance is the same function of the scales: scans of one scanner, of people scanned once or of
people scanned repeatedly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import sparse

from bayesharm.data.scans import find_travelers
from bayesharm.errors import ModelError, shorten
from bayesharm.model.contrasts import EffectGroup
from bayesharm.model.covariates import Covariate, covariate_block, find_covariates
from bayesharm.model.protocol_factors import read_factors
from bayesharm.model.spec import ModelSpec
from bayesharm.model.terms import FIXED, Block, family_levels, indicators, levels_by, mean_block, sized_biases


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
    scan_class, class_scanner, class_single_scan : int and bool arrays
        Noise class of each scan; scanner of each class, and whether its people were scanned once.
    effects : tuple of EffectGroup
        Sums last.
    of_scanner : (scanner, part) int array
        The columns that the effect of each scanner is the sum of; one, but with protocol factors.
    participants : (scan,) array
        Who each scan is of.
    travelers : tuple of str
    single_scan_scale : int
        Index of the participants' scale in the variance of people scanned once; 0 if nobody has a participant
        effect.
    covariates : tuple of Covariate
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
    class_single_scan: np.ndarray
    effects: tuple[EffectGroup, ...]
    of_scanner: np.ndarray
    participants: np.ndarray
    travelers: tuple[str, ...]
    single_scan_scale: int
    covariates: tuple[Covariate, ...]
    notes: tuple[str, ...]

    @property
    def n_scans(self) -> int:
        return len(self.rows)

    @property
    def class_size(self) -> np.ndarray:
        """Number of scans in each noise class."""
        return np.bincount(self.scan_class, minlength=len(self.class_scanner))

    @property
    def bias_ratio_of(self) -> np.ndarray:
        """The scanner whose biases have a size of their own, for each column; -1 for others; (column,) int array."""
        by_travelers = np.isin(self.participants, self.travelers)
        scanner = self.class_scanner[self.scan_class]
        return sized_biases(self.spec, self.columns, self.scanners, np.unique(scanner[by_travelers]))

    @property
    def families(self) -> np.ndarray:
        """Family of each column, or `mean` or `covariate`; (column,)."""
        return np.array([name.partition(":")[0] for name in self.columns], object)


def build_design(scans: pd.DataFrame, spec: ModelSpec, covariates: tuple[Covariate, ...] = ()) -> Design:
    """Lay out the study for a model.

    Parameters
    ----------
    scans : DataFrame
        Canonical columns as in :class:`bayesharm.data.dataset.Dataset`.
    spec : ModelSpec
    covariates : tuple of Covariate
        Columns of the covariates, where they were made of other scans; by default those of these scans.

    Raises
    ------
    ModelError
        The study lacks what the model needs: travelers, the reference diagnosis, protocol columns.
    InputError
        A covariate is missing, constant, or has missing values; a protocol factor cannot be one.
    """
    traveling = find_travelers(scans)
    if spec.requires_travelers and scans.groupby("participant_id").scanner.nunique().max() < 2:
        raise ModelError(
            f"The model {spec.name!r} needs traveling subjects, and nobody was scanned on two or more scanners.",
            got=f"{scans.participant_id.nunique()} participants, each on one scanner",
            expected="at least one participant_id on two or more scanners",
            do="check the participant column, or use --model cohort (its site effect is measurement and "
            "sampling bias together)",
        )
    rows = np.flatnonzero(traveling) if spec.participants == "travelers" else np.arange(len(scans))
    used, traveling = scans.iloc[rows].reset_index(drop=True), traveling[rows]
    repeated = used.participant_id.map(used.participant_id.value_counts()).to_numpy() > 1
    scanners = tuple(sorted(used.scanner.unique()))

    notes: list[str] = []
    if len(rows) < len(scans):
        unused = len(scans) - len(rows)
        notes.append(f"{unused} scans of people who did not travel are not used by this model.")
    if left_out := sorted(set(scans.scanner) - set(scanners)):
        notes.append(f"No traveling subject was scanned on {shorten(left_out)}: this model says nothing about it.")
    notes += _on_contradictions(used, traveling, spec)
    factors = read_factors(used, spec, notes)
    scales, medians, blocks = ["noise"], [spec.noise_scale], [mean_block(len(used), spec)]
    for family in spec.families:
        levels = family_levels(family, used, traveling, repeated, spec, scanners, factors, notes)
        if levels is None:
            continue
        labels, groups, names = levels
        index = {name: len(scales) + k for k, name in enumerate(dict.fromkeys(groups))}
        scales += index.keys()
        medians += [family.prior_median] * len(index)
        codes = pd.Index(names, dtype=object).get_indexer(labels)
        level_scales = np.array([index[group] for group in groups])
        matrix = indicators(codes, len(names))
        blocks.append(Block(family.name, tuple(names), matrix, level_scales, family.grouping != "diagnosis"))
    if spec.covariates:
        covariates = covariates or find_covariates(used, spec)
        blocks.append(covariate_block(used, covariates, spec))

    single_scan_scale = next((int(b.scales[0]) for b in blocks if levels_by(spec, b.name) == "participant"), 0)
    once = ~repeated if single_scan_scale else np.zeros(len(used), bool)
    codes = pd.Categorical(used.scanner, categories=scanners).codes.astype(int)
    classes, scan_class = np.unique(2 * codes + once, return_inverse=True)
    design = Design(
        spec=spec,
        rows=rows,
        scanners=scanners,
        scales=tuple(scales),
        scale_medians=np.array(medians),
        columns=(),
        matrix=sparse.csr_array((0, 0)),
        column_scale=np.array([]),
        column_sd=np.array([]),
        n_dense=0,
        scan_class=scan_class,
        class_scanner=classes // 2,
        class_single_scan=(classes % 2).astype(bool),
        effects=(),
        of_scanner=np.zeros((0, 0), int),
        participants=used.participant_id.to_numpy(object),
        travelers=tuple(sorted(used.participant_id[traveling].unique())),
        single_scan_scale=single_scan_scale,
        covariates=covariates,
        notes=tuple(notes),
    )
    return _with_columns(design, blocks, spec)


def _on_contradictions(used: pd.DataFrame, traveling: np.ndarray, spec: ModelSpec) -> list[str]:
    """What a table says that cannot be, or that the model cannot take apart."""
    notes, people = [], used.groupby("participant_id")
    if "traveling" in used:
        denied = used.participant_id[traveling & ~people.traveling.transform("any")].unique()
        if len(denied):
            notes.append(f"Marked as not traveling, but scanned on several scanners, and so travelers: {shorten(denied)}.")
    if "diagnosis" in used and len(changed := people.diagnosis.nunique().loc[lambda n: n > 1].index):
        notes.append(f"Of more than one diagnosis: {shorten(changed)}; each scan counts under its own.")
    for name in spec.covariates:
        if name in used and (used.groupby("scanner")[name].nunique(dropna=False) == 1).all():
            notes.append(f"{name} is the same in all scans of a scanner: what it does cannot be told from what scanners do.")
    return notes


def _with_columns(design: Design, blocks: list[Block], spec: ModelSpec) -> Design:
    """Order the columns, dense ones first, and write the contrasts that are reported.

    Parts of the effect of a scanner are dense, since moments of their sum need products of all of them.
    """
    matrix = sparse.hstack([block.matrix for block in blocks]).tocsr()
    names = [f"{block.name}:{level}" for block in blocks for level in block.levels]
    scale = np.concatenate([block.scales for block in blocks]).astype(int)
    sd = np.concatenate([np.where(block.scales == FIXED, block.fixed_sd, np.inf) for block in blocks])
    start = np.concatenate([[0], np.cumsum([len(block.levels) for block in blocks])])

    eliminated = np.zeros(len(names), bool)
    touched = np.zeros(matrix.shape[0], bool)
    by_column = matrix.tocsc()
    for by in ("participant", "population", "scanner"):
        for j, block in enumerate(blocks):
            if levels_by(spec, block.name) == by and not (block.name in spec.components and len(spec.components) > 1):
                for column in range(start[j], start[j + 1]):
                    scans = by_column.indices[by_column.indptr[column] : by_column.indptr[column + 1]]
                    if not touched[scans].any():
                        touched[scans] = eliminated[column] = True
    order = np.argsort(eliminated, kind="stable")
    place = np.argsort(order)

    effects = []
    for j, block in enumerate(blocks[1:], start=1):
        contrast_group = block.scales if block.centered else np.full(len(block.levels), -1)
        # a level that has its scale for itself has nothing to be compared with
        told = np.flatnonzero((np.bincount(block.scales + 1)[block.scales + 1] > 1) | ~np.array(block.centered))
        if len(told):
            effects.append(
                EffectGroup(
                    block.name,
                    levels_by(spec, block.name),
                    tuple(block.levels[k] for k in told),
                    place[start[j] + told][:, None],
                    contrast_group[told],
                    np.broadcast_to(block.weight, len(contrast_group))[told],
                    len(names),
                )
            )
    columns = tuple(names[k] for k in order)
    of_scanner = _of_scanners(design, columns, matrix[:, order].tocsr())
    if len(spec.components) > 1:
        n = len(design.scanners)
        none = np.zeros(n, int)
        effects.append(
            EffectGroup(spec.removed_effect, "scanner", design.scanners, of_scanner, none, np.ones(n), len(names))
        )
    return replace(
        design,
        columns=columns,
        matrix=matrix[:, order].tocsr(),
        column_scale=scale[order],
        column_sd=sd[order],
        n_dense=int((~eliminated).sum()),
        effects=tuple(effects),
        of_scanner=of_scanner,
    )


def _of_scanners(design: Design, columns: tuple[str, ...], matrix: sparse.csr_array) -> np.ndarray:
    """The columns of each scanner's effect, read off one scan of each, (scanner, part)."""
    own = np.isin([name.partition(":")[0] for name in columns], design.spec.components)
    scanner = design.class_scanner[design.scan_class]
    some = matrix[np.unique(scanner, return_index=True)[1]].toarray() * own
    return np.nonzero(some)[1].reshape(len(design.scanners), -1)


def restrict_design(design: Design, kept: np.ndarray, scales: tuple[str, ...], scale_medians: np.ndarray) -> Design:
    """A design without some of its columns, its scales in an order that is given.

    Parameters
    ----------
    design : Design
    kept : (column,) bool array
    scales : tuple of str
        Those of the columns that are kept, and perhaps others.
    scale_medians : (scale,) array
    """
    place = {name: k for k, name in enumerate(scales)}
    keep, now = np.flatnonzero(kept), np.cumsum(kept) - 1
    return replace(
        design,
        scales=scales,
        scale_medians=scale_medians,
        columns=tuple(design.columns[k] for k in keep),
        matrix=design.matrix[:, keep],
        column_scale=np.array([FIXED if k == FIXED else place[design.scales[k]] for k in design.column_scale[keep]]),
        column_sd=design.column_sd[keep],
        n_dense=int((keep < design.n_dense).sum()),
        single_scan_scale=place[design.scales[design.single_scan_scale]],
        effects=tuple(_restrict(group, kept, now) for group in design.effects if kept[group.columns].all(1).any()),
        of_scanner=now[design.of_scanner],
    )


def _restrict(group: EffectGroup, kept: np.ndarray, now: np.ndarray) -> EffectGroup:
    """A group without levels whose columns are not kept."""
    there = kept[group.columns].all(1)
    return replace(
        group,
        levels=tuple(np.array(group.levels, object)[there]),
        columns=now[group.columns[there]],
        contrast_group=group.contrast_group[there],
        weight=group.weight[there],
        n_columns=int(kept.sum()),
    )
