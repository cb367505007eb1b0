"""Weights of scans: sums of products where the noise precision of a scan has a factor of its own in each feature.

The noise variance of a scan is that of its noise class, divided by its weight, and by its known relative precision if the
model has one. The normal equations are those of the
observed scans of a feature (:mod:`bayesharm.likelihood.counts`), with sums of weights in the place of numbers of scans, and
weighted products. Only log|W| still needs the numbers of scans. It also contains the sum of the log weights, which does not
depend on the scales and is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from bayesharm.algorithms.programs import program
from bayesharm.likelihood.counts import count_scans, index_counts
from bayesharm.likelihood.grams import Entries, compute_grams
from bayesharm.likelihood.moments import Moments
from bayesharm.likelihood.ratios import VarianceRatios
from bayesharm.model.design import Design

Array = Any  # of NumPy or of JAX


@partial(jax.tree_util.register_dataclass, data_fields=("row", "scan", "value"), meta_fields=("n_rows",))
@dataclass(frozen=True)
class ScanSums:
    """A sparse matrix, (row, scan), that adds up scans (a JAX pytree).

    Attributes
    ----------
    row, scan : (term,) int arrays
        Rows in order.
    value : (term,) array
    n_rows : int
    """

    row: np.ndarray
    scan: np.ndarray
    value: np.ndarray
    n_rows: int

    @classmethod
    def from_matrix(cls, matrix: sparse.sparray) -> ScanSums:
        """Order the entries of a sparse matrix by row."""
        entries = sparse.csr_array(matrix).sorted_indices().tocoo()
        row, scan = (index.astype(np.int32) for index in entries.coords)
        return cls(row, scan, entries.data.astype(float), matrix.shape[0])

    def __call__(self, scans: Array) -> Array:
        """Add up, (scan, feature) -> (row, feature)."""
        terms = scans[self.scan] * jnp.asarray(self.value, scans.dtype)[:, None]
        return jax.ops.segment_sum(terms, self.row, self.n_rows, indices_are_sorted=True)


class ScanTerms(NamedTuple):
    """What the scans of a design add to sums, and what their effects add up to (a JAX pytree).

    Attributes
    ----------
    counts, dense, eliminated, squares : ScanSums
        Of the scans that make each number of :class:`Moments`.
    column : (scan, effect) int array
        Columns of the effects of each scan; the number of columns where it has fewer.
    value : (scan, effect) array
        Values of these columns.
    has_gain : (scan, effect) array
        1 where the gain of the scanner multiplies them, else 0.
    precision : (scan,) array
        Known relative precision; 1 where a noise class has one for all its scans.
    scan_class : (scan,) int array
    class_scanner : (class,) int array
    class_variance : (class,) array
    class_noise_scale : (class,) int array
        As in :class:`~bayesharm.model.design.Design`.
    class_single_scan : (class,) array
        1 for participants scanned once.
    """

    counts: ScanSums
    dense: ScanSums
    eliminated: ScanSums
    squares: ScanSums
    column: np.ndarray
    value: np.ndarray
    has_gain: np.ndarray
    precision: np.ndarray
    scan_class: np.ndarray
    class_scanner: np.ndarray
    class_variance: np.ndarray
    class_noise_scale: np.ndarray
    class_single_scan: np.ndarray

    def with_gain(self, gain: Array) -> ScanTerms:
        """Multiply the values of the effects by the gains of the scanners, (scanner,)."""
        of_scan = jnp.asarray(gain)[self.class_scanner[self.scan_class], None]
        return self._replace(value=self.value * of_scan**self.has_gain)


def list_scan_terms(design: Design) -> ScanTerms:
    """List the terms of the scans of a design."""
    grams, columns, n_scans = compute_grams(design), design.matrix.tocsc(), design.n_scans
    shape = (len(design.class_scanner), n_scans)
    in_class = sparse.csr_array((np.ones(n_scans), (design.scan_class, np.arange(n_scans))), shape=shape)

    def products(entries: Entries, offset: int) -> ScanSums:
        return ScanSums.from_matrix(in_class[entries.classes].multiply(columns[:, entries.columns + offset].T))

    rows = design.matrix.tocsr()
    n_effects = np.diff(rows.indptr)
    place = np.arange(len(rows.indices)) - np.repeat(rows.indptr[:-1], n_effects)
    scan = np.repeat(np.arange(n_scans), n_effects)
    column = np.full((n_scans, n_effects.max()), len(design.columns), np.int32)
    value = np.zeros(column.shape)
    column[scan, place], value[scan, place] = rows.indices, rows.data
    return ScanTerms(
        counts=ScanSums.from_matrix(count_scans(design, index_counts(design))),
        dense=products(grams.dense, 0),
        eliminated=products(grams.eliminated, design.n_dense),
        squares=ScanSums.from_matrix(in_class),
        column=column,
        value=value,
        has_gain=np.append(design.has_gain & (design.spec.gain != "none"), False)[column].astype(float),
        precision=design.scan_weight,
        scan_class=design.scan_class.astype(np.int32),
        class_scanner=design.class_scanner.astype(np.int32),
        class_variance=design.class_variance,
        class_noise_scale=design.class_noise_scale.astype(np.int32),
        class_single_scan=design.class_single_scan.astype(float),
    )


def weighted_moments(terms: ScanTerms, y: Array, weight: Array, class_counts: Array) -> Moments:
    """Compute the moments of standardized features whose scans have weights.

    Parameters
    ----------
    terms : ScanTerms
    y, weight : (scan, feature) arrays
        Both 0 where a feature lacks the scan.
    class_counts : (class, feature) array
        Numbers of observed scans.
    """
    weighted = weight * jnp.asarray(terms.precision, weight.dtype)[:, None] * y
    return Moments(
        terms.dense(weighted), terms.eliminated(weighted), terms.squares(weighted * y), terms.counts(weight), class_counts
    )


@program()
def compute_weighted_moments(terms: ScanTerms, values: Array, weight: Array) -> Moments:
    """Compute the moments of standardized features whose scans have weights; values are NaN where a scan is missing."""
    observed = ~jnp.isnan(values)
    y, weight = jnp.where(observed, values, 0.0), jnp.where(observed, weight, 0.0)
    return weighted_moments(terms, y, weight, terms.squares(observed.astype(values.dtype)))


def fitted_values(terms: ScanTerms, effects: Array) -> Array:
    """Add up the effects of each scan, (column, feature) -> (scan, feature)."""
    effects = jnp.concatenate([effects, jnp.zeros_like(effects[:1])])
    value = jnp.asarray(terms.value, effects.dtype)
    return sum(effects[terms.column[:, k]] * value[:, k, None] for k in range(value.shape[1]))


def scan_variance(terms: ScanTerms, ratios: VarianceRatios, gain: Array, log_scales: Array, single_scan_scale: int) -> Array:
    """Noise variance of each scan without its weight, (scan, feature); line 2 of the definition.

    Parameters
    ----------
    terms : ScanTerms
    ratios : VarianceRatios
    gain : (scanner,) array
        From :meth:`bayesharm.likelihood.collapsed.CollapsedLikelihood.gain`.
    log_scales : (scale, feature) array
    single_scan_scale : int
        As in :class:`~bayesharm.model.design.Design`.
    """
    variance = jnp.exp(2 * log_scales)
    relative = jnp.exp(ratios.log_noise)[terms.class_scanner] * terms.class_variance
    by_class = relative.astype(variance.dtype)[:, None] * variance[0]
    has_own_ratio = (terms.class_noise_scale >= 0)[:, None]
    by_class *= jnp.where(has_own_ratio, variance[terms.class_noise_scale], 1.0)
    single_scan = terms.class_single_scan * gain[terms.class_scanner] ** 2
    by_class += single_scan.astype(variance.dtype)[:, None] * variance[single_scan_scale]
    return by_class[terms.scan_class] / jnp.asarray(terms.precision, variance.dtype)[:, None]
