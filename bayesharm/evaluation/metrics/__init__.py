"""How well data are harmonized: measures of values (scan, feature) and the table of their scans, one number each.

Every measure is a :class:`Measure`, with a standard error and what is needed for that of a difference between two methods.
Values come from models that never saw the people they are of; scans whose values are all missing are those that a method
could not correct, and `Measure.n_scans` says how many were used.

Measure the held-out people of one fit at a time and take the :func:`average`. What remains of a scanner in the people of one
fold is about the opposite of what remains in those of another, since each is corrected by what the others say: put together,
these cancel, measurement bias seems to vanish, and a classifier that learns from one does worse than chance on the other.
"""

from bayesharm.evaluation.metrics.bias import BiasError as BiasError
from bayesharm.evaluation.metrics.bias import bias_error as bias_error
from bayesharm.evaluation.metrics.effect_preservation import Preservation as Preservation
from bayesharm.evaluation.metrics.effect_preservation import effect_preservation as effect_preservation
from bayesharm.evaluation.metrics.identification import identification_rate as identification_rate
from bayesharm.evaluation.metrics.identification import scanner_accuracy as scanner_accuracy
from bayesharm.evaluation.metrics.jackknife import Measure as Measure
from bayesharm.evaluation.metrics.jackknife import average as average
from bayesharm.evaluation.metrics.jackknife import combine as combine
from bayesharm.evaluation.metrics.jackknife import difference as difference
from bayesharm.evaluation.metrics.prediction import difference_from_others as difference_from_others
from bayesharm.evaluation.metrics.prediction import interval_coverage as interval_coverage
from bayesharm.evaluation.metrics.prediction import prediction_rmse as prediction_rmse
from bayesharm.evaluation.metrics.reliability import between_scanner_sd as between_scanner_sd
from bayesharm.evaluation.metrics.reliability import noise_floor as noise_floor
from bayesharm.evaluation.metrics.reliability import participant_icc as participant_icc
from bayesharm.evaluation.metrics.reliability import share_removed as share_removed
from bayesharm.evaluation.metrics.yamashita2019 import Published as Published
from bayesharm.evaluation.metrics.yamashita2019 import measures_of_2019 as measures_of_2019
