"""A design without some of its columns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bayesharm.model.contrasts import EffectGroup
from bayesharm.model.design import FIXED, Design
from bayesharm.model.labels import Scale


def restrict_design(design: Design, kept: np.ndarray, scales: tuple[Scale, ...], scale_medians: np.ndarray) -> Design:
    """Return a design with a subset of its columns, and with its scales in a given order.

    Parameters
    ----------
    design : Design
    kept : (column,) bool array
    scales : tuple of Scale
        Scales of the kept columns, and perhaps others.
    scale_medians : (scale,) array
    """
    place = {scale: k for k, scale in enumerate(scales)}
    keep, new_index = np.flatnonzero(kept), np.cumsum(kept) - 1
    return replace(
        design,
        scales=scales,
        scale_medians=scale_medians,
        columns=tuple(design.columns[k] for k in keep),
        matrix=design.matrix[:, keep],
        column_scale=np.array([FIXED if k == FIXED else place[design.scales[k]] for k in design.column_scale[keep]]),
        column_sd=design.column_sd[keep],
        partner=np.where((design.partner[keep] >= 0) & kept[design.partner[keep]], new_index[design.partner[keep]], -1),
        correlation_of=np.where(kept[design.partner[keep]], design.correlation_of[keep], -1),
        class_noise_scale=np.array([place.get(design.scales[k], -1) if k >= 0 else -1 for k in design.class_noise_scale]),
        has_gain=design.has_gain[keep],
        n_dense=int((keep < design.n_dense).sum()),
        single_scan_scale=place[design.scales[design.single_scan_scale]],
        effects=tuple(_restrict(group, kept, new_index) for group in design.effects if kept[group.columns].all(1).any()),
        of_scanner=new_index[design.of_scanner],
    )


def _restrict(group: EffectGroup, kept: np.ndarray, new_index: np.ndarray) -> EffectGroup:
    """Return a group with the levels whose columns are all kept."""
    is_kept = kept[group.columns].all(1)
    return replace(
        group,
        levels=tuple(np.array(group.levels, object)[is_kept]),
        columns=new_index[group.columns[is_kept]],
        contrast_group=group.contrast_group[is_kept],
        weight=group.weight[is_kept],
        n_columns=int(kept.sum()),
    )
