"""Metrics of harmonization quality: one number from (scan, feature) values and their scans table.

Each metric is a :class:`JackknifeEstimate`, with a standard error and with replicates for the standard error of a difference
between two methods. The values should be of people who were not in the training data. Scans with NaN in all features, which
a method could not correct, are not used; `JackknifeEstimate.n_scans` is the number of scans in the metric.

Compute metrics for the held-out people of each fold separately and take the :func:`average`. The scanner effects that
remain in one fold are roughly opposite to those in another, because each fold is corrected by the other folds. In pooled
folds they would cancel: measurement bias would seem to vanish, and a classifier trained on one fold would be worse than
chance in another.
"""

from bayesharm.evaluation.metrics.bias import BiasError as BiasError
from bayesharm.evaluation.metrics.bias import bias_error as bias_error
from bayesharm.evaluation.metrics.effect_preservation import EffectPreservation as EffectPreservation
from bayesharm.evaluation.metrics.effect_preservation import effect_preservation as effect_preservation
from bayesharm.evaluation.metrics.identification import identification_rate as identification_rate
from bayesharm.evaluation.metrics.identification import scanner_accuracy as scanner_accuracy
from bayesharm.evaluation.metrics.jackknife import JackknifeEstimate as JackknifeEstimate
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
from bayesharm.evaluation.metrics.yamashita2019 import EffectMagnitudes as EffectMagnitudes
from bayesharm.evaluation.metrics.yamashita2019 import effect_magnitudes as effect_magnitudes
