"""Names of columns, scales and populations: parts inside, one unique printed label outside.

Sites, diagnoses, scanners and features may have any name, such as ``a/b`` or ``x:y_z``. Code therefore compares the parts
of a name and never takes a printed label apart. The printed labels (``sampling_HC``, ``ATT/HC``) are for people. Where two
different names would print the same label, all labels of the set are printed in an unambiguous form.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

NOISE_RATIO = "noise_ratio"  # family of the scales of a scanner: the factor of its noise sd in a feature


class Column(NamedTuple):
    """Name of a column of the design: one effect.

    Attributes
    ----------
    family : str
        A family of the model, `mean` or `covariate`.
    level : str
        A scanner, a participant, a diagnosis, a level of a protocol factor, or the site of a population.
    group : str
        The diagnosis of a population; empty elsewhere.
    """

    family: str
    level: str
    group: str = ""


class Scale(NamedTuple):
    """Name of a scale.

    Attributes
    ----------
    family : str
        A family of the model, `noise` or `noise_ratio`.
    group : str
        The diagnosis, where a family has one scale for each diagnosis; the scanner of a noise ratio; empty elsewhere.
    """

    family: str
    group: str = ""

    @property
    def is_noise_ratio(self) -> bool:
        """Whether it is the factor of the noise sd of a scanner, not the sd of effects or noise."""
        return self.family == NOISE_RATIO


class Population(NamedTuple):
    """The people recruited at one site with one diagnosis.

    Attributes
    ----------
    site : str
    diagnosis : str
        Empty in a study without diagnoses.
    """

    site: str
    diagnosis: str = ""

    def __str__(self) -> str:
        return f"{self.site}/{self.diagnosis}" if self.diagnosis else self.site


def population_labels(populations: Sequence[Population]) -> tuple[str, ...]:
    """Return a unique printed label for each population: ``ATT/HC``, or ``'a/b'/'c'`` where that would be ambiguous."""
    return unique_labels(map(str, populations), (f"{site!r}/{diagnosis!r}" for site, diagnosis in populations))


def scale_labels(scales: Sequence[Scale]) -> tuple[str, ...]:
    """Return a unique printed label for each scale: ``sampling_HC``, or ``sampling/HC`` where that would be ambiguous."""
    labels = (f"{family}_{group}" if group else family for family, group in scales)
    return unique_labels(labels, (f"{family}/{group}" if group else family for family, group in scales))


def column_labels(columns: Sequence[Column]) -> tuple[str, ...]:
    """Return a unique printed label for each column: ``measurement:ATT``, ``sampling:ATT/HC``."""
    labels = (f"{family}:{Population(level, group)}" for family, level, group in columns)
    return unique_labels(labels, (f"{family}/{level!r}/{group!r}" for family, level, group in columns))


def covariate_labels(names: Sequence[tuple[str, str | None]]) -> tuple[str, ...]:
    """Return a unique printed label for each covariate and category: ``age``, ``sex_M``."""
    labels = (name if category is None else f"{name}_{category}" for name, category in names)
    return unique_labels(labels, (repr(name) if category is None else f"{name!r}_{category!r}" for name, category in names))


def unique_labels(labels: Iterable[str], exact: Iterable[str]) -> tuple[str, ...]:
    """Return the labels if they differ from one another, else the exact ones: a family name has no slash, `repr` quotes."""
    labels = tuple(labels)
    return labels if len(set(labels)) == len(labels) else tuple(exact)
