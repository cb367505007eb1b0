"""All effects as sums over entries of the design matrix; private to this package."""

from __future__ import annotations

from functools import partial
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np

from bayesharm.likelihood.column_classes import ColumnClasses, MergedEntries

_integers = partial(np.array, dtype=np.int32)  # JAX takes them as indices in either precision


class EffectEntries(NamedTuple):
    """Effects as sums over entries, dense effects first; a dense effect is an entry by itself.

    The response of an effect to an entry is a noise precision times an entry of E⁻¹.

    Attributes
    ----------
    column : (term,) int array
        The effect to which each term of a sum belongs.
    source : (term,) int array
        The dense effect, or after these the merged entry, that the term is of.
    response : (term,) int array
        Which response it has; response 0 is that of the dense effects, 1.
    first, second : (pair,) int arrays
        Pairs of terms of one effect.
    product : (pair,) int array
        Which product of two responses the pair has; product 0 is 1.
    residual : (column,) int array
        Which residual variance the effect has; variance 0 is that of the dense effects, 0.
    response_entry, response_inverse : (response but 0,) int arrays
        The merged entry and the entry of E⁻¹ that make each response.
    product_first, product_second : (product,) int arrays
        The responses that make each product.
    """

    column: np.ndarray
    source: np.ndarray
    response: np.ndarray
    first: np.ndarray
    second: np.ndarray
    product: np.ndarray
    residual: np.ndarray
    response_entry: np.ndarray
    response_inverse: np.ndarray
    product_first: np.ndarray
    product_second: np.ndarray


def list_effect_entries(
    n_dense: int, eliminated: MergedEntries, column_classes: ColumnClasses, couples: np.ndarray
) -> EffectEntries:
    """List the terms of all effects.

    Parameters
    ----------
    n_dense : int
    eliminated : MergedEntries
    column_classes : ColumnClasses
    couples : (couple, 2) int array
        Eliminated columns that are partners.
    """
    n_classes, dense = len(column_classes.first), np.arange(n_dense)
    entries = np.arange(len(eliminated.columns))
    response_entry = column_classes.entries.tolist()
    response_inverse = column_classes.of_column[eliminated.columns[column_classes.entries]].tolist()
    # an effect has its own entries, and those of its partner
    column = [*dense, *(n_dense + eliminated.columns)]
    source = [*dense, *(n_dense + entries)]
    response = [*np.zeros(n_dense, int), *(1 + column_classes.of_entry)]
    for couple, pair in enumerate(couples):
        for effect, partner in (pair, pair[::-1]):
            for entry in np.flatnonzero(eliminated.columns == partner):
                response_entry.append(int(entry))
                response_inverse.append(n_classes + couple)
                column.append(n_dense + effect)
                source.append(n_dense + entry)
                response.append(len(response_entry))
    products: dict[tuple[int, ...], int] = {(0, 0): 0}
    pairs = [(k, k, 0) for k in range(n_dense)]
    terms_of: list[list[int]] = [[] for _ in column_classes.of_column]
    for term in range(n_dense, len(column)):
        terms_of[column[term] - n_dense].append(term)
    for terms in terms_of:
        for first, second in combinations_with_replacement(terms, 2):
            key = int(response[first]), int(response[second])
            pairs.append((first, second, products.setdefault(key, len(products))))
    first, second, product = _integers(pairs).reshape(-1, 3).T
    product_first, product_second = _integers(list(products)).T
    return EffectEntries(
        column=_integers(column),
        source=_integers(source),
        response=_integers(response),
        first=first,
        second=second,
        product=product,
        residual=np.concatenate([np.zeros(n_dense, np.int32), 1 + column_classes.of_column]),
        response_entry=_integers(response_entry),
        response_inverse=_integers(response_inverse),
        product_first=product_first,
        product_second=product_second,
    )
