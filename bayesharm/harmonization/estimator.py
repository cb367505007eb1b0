"""The scikit-learn transformer, for pipelines and cross-validation."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from bayesharm.errors import BayesharmError

try:
    import joblib
    import sklearn
    from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
    from sklearn.utils.validation import check_is_fitted, validate_data
except ModuleNotFoundError:
    raise BayesharmError(
        "BayesHarmonizer needs scikit-learn, which is not installed.",
        expected="the optional part 'sklearn' of bayesharm",
        do="pip install 'bayesharm[sklearn]'",
    ) from None

from bayesharm.data.dataset import Dataset
from bayesharm.data.features import Features, find_flaws
from bayesharm.data.row_matching import check_row_alignment, select_rows
from bayesharm.data.scans import Check, read_scans
from bayesharm.errors import InputError, shorten
from bayesharm.fitting.fit import fit
from bayesharm.harmonization.adaptation import adapt_to_new_scanners, refuse_inverse_adaptation
from bayesharm.harmonization.harmonize import Harmonized, harmonize
from bayesharm.harmonization.options import CorrectionOptions, NewScanners
from bayesharm.harmonization.packing import pack, unpack
from bayesharm.harmonization.selection import choose_families
from bayesharm.model.catalog import AUTO
from bayesharm.model.configure import MODEL_OPTIONS, configure_model, resolve_model
from bayesharm.model.design import build_design
from bayesharm.model.spec import ModelSpec
from bayesharm.results.posterior import Posterior

FLOATS = (np.float64, np.float32)
# Warnings point at the first line outside of these folders: the user's.
LIBRARIES = tuple(str(Path(file).parent) for file in (__file__, sklearn.__file__, joblib.__file__))


class BayesHarmonizer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """A scikit-learn transformer that removes the effects of scanners from features.

    `fit` samples the posterior (:func:`bayesharm.fit`) given the training scans only: in cross-validation, no information
    leaks from the test scans. `transform` harmonizes any scans on the same scanners (:func:`bayesharm.harmonize`).

    Every method takes X, of shape (scan, feature), and the table `scans` with one row for each row of X, in the same order.
    Its columns are `participant_id`, `scanner` and, as needed, `site`, `diagnosis`, `traveling` and covariates. The methods
    request the table: with ``sklearn.set_config(enable_metadata_routing=True)``, pipelines and cross-validation pass it on
    (``params={"scans": scans}``). scikit-learn does not pass it on to scorers given by name (``scoring="roc_auc"``), nor in
    ``cross_val_predict``; there, give the table to the constructor.

    Parameters
    ----------
    model : str or ModelSpec
        As for :func:`bayesharm.fit`, like `covariates`, `formula`, `protocol`, `reference`, `feature_scaling`, `gain`,
        `noise_ratio`, `noise_weight`, `likelihood`, `time` and `seed`. `auto`, the default, chooses by the training scans.
    columns : mapping, optional
        Canonical name -> column of `scans`, such as ``{"participant_id": "subject"}``.
    scans : DataFrame, optional
        A table of all scans, for methods called without one. X must then be a DataFrame: its index is looked up in the
        column `scan_id` of the table or, without this column, in the table's index.
    remove, target, match_gain, match_noise
        As for :func:`bayesharm.harmonize`. Like `new_scanners`, they concern `transform` only and can be changed without a
        new fit. Removing sampling bias is refused, since it needs the diagnoses of the transformed scans.
    new_scanners : {'error', 'prior', 'adapt'}
        As for :func:`bayesharm.harmonize`; or, with 'adapt', first learn the effect of a new scanner from the transformed
        scans (:func:`bayesharm.adapt`). A model with effects of diagnoses or populations cannot adapt, since it would need
        the diagnoses of the transformed scans.
    preview : bool
        Fit quickly and approximately, without sampling.
    settings : mapping, optional
        Other settings of :class:`bayesharm.Settings`.

    Attributes
    ----------
    posterior_ : Posterior
        Of the features that vary, named as in X or, if X has no names, `x0`, `x1`, …
    n_features_in_ : int
    feature_names_in_ : (feature,) array
        If X had names.

    Notes
    -----
    The output has the form of X: a DataFrame with the same index, columns and types, or an array. float32 stays float32;
    other numbers become float64. `fit` uses the observed scans of each feature; `transform` leaves missing values missing.
    Features that do not vary over the scans used by the model are passed through unchanged, with a warning.

    A pickled estimator contains its posterior as the files of a run folder.
    """

    __metadata_request__fit = {"scans": True}
    __metadata_request__transform = {"scans": True}
    __metadata_request__inverse_transform = {"scans": True}

    def __init__(
        self,
        model: str | ModelSpec = AUTO,
        *,
        covariates: Sequence[str] = (),
        formula: str = "",
        protocol: Sequence[str] = (),
        reference: str | None = None,
        feature_scaling: str | None = None,
        gain: str | None = None,
        noise_ratio: str | None = None,
        noise_weight: str | None = None,
        likelihood: str | None = None,
        time: str | None = None,
        columns: Mapping[str, str] | None = None,
        scans: pd.DataFrame | None = None,
        remove: str | Sequence[str] | None = None,
        target: str | None = None,
        match_gain: bool = False,
        match_noise: bool = False,
        new_scanners: NewScanners | Literal["adapt"] = "error",
        preview: bool = False,
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
    ):
        self.model = model
        self.covariates = covariates
        self.formula = formula
        self.protocol = protocol
        self.reference = reference
        self.feature_scaling = feature_scaling
        self.gain = gain
        self.noise_ratio = noise_ratio
        self.noise_weight = noise_weight
        self.likelihood = likelihood
        self.time = time
        self.columns = columns
        self.scans = scans
        self.remove = remove
        self.target = target
        self.match_gain = match_gain
        self.match_noise = match_noise
        self.new_scanners = new_scanners
        self.preview = preview
        self.seed = seed
        self.settings = settings

    def fit(self, X: Any, y: Any = None, *, scans: pd.DataFrame | None = None) -> BayesHarmonizer:
        """Sample the posterior of the effects, given training scans.

        Parameters
        ----------
        X : (scan, feature) array or DataFrame
        y : ignored
        scans : DataFrame
            One row for each row of X.

        Raises
        ------
        InputError, ModelError
            No feature varies, or the model does not suit the scans. Both are ValueErrors.

        Warns
        -----
        UserWarning
            Some features do not vary and are passed through.
        """
        values = validate_data(self, X, dtype=FLOATS, ensure_all_finite="allow-nan", ensure_min_samples=2)
        names = self.get_feature_names_out().astype(str)
        table = self._read(X, len(values), scans, "fit")
        features = Features.from_array(values, names)
        spec, on_choice = self._specify(table)
        self._check_options(spec)
        flaws = find_flaws(features.align(build_design(table, spec).rows))
        is_unfit = flaws.constant | flaws.empty
        dropped = flaws.reasons(names, is_unfit)
        if len(dropped) == len(names):
            raise InputError(
                "No feature varies over the scans used by the model.",
                got=f"{len(names)} constant features: {shorten(names)}",
                expected="features that differ between scans",
                do="check the values",
            )
        if dropped:
            _warn(
                f"{len(dropped)} of {len(names)} features do not vary over the scans of the fit and are passed through "
                f"unchanged: {shorten(dropped)}."
            )
        dataset = Dataset(table, features.take(names[~is_unfit]), dropped)
        settings = {"preview": self.preview} | dict(self.settings or {})
        self.posterior_ = fit(dataset, spec, seed=self.seed, notes=on_choice, **settings)
        return self

    def transform(self, X: Any, *, scans: pd.DataFrame | None = None) -> Any:
        """Harmonize scans on the scanners of the fit.

        Parameters
        ----------
        X : (scan, feature) array or DataFrame
            Features as in the fit; missing values stay missing.
        scans : DataFrame
            One row for each row of X. Diagnoses are ignored, since they may be the target of prediction; covariates are
            needed only for `match_noise`.

        Returns
        -------
        (scan, feature) array or DataFrame
            In the units of X.

        Raises
        ------
        NotFittedError
        InputError
            X and `scans` do not match, or a scanner is unknown.

        Warns
        -----
        UserWarning
            For each of `Harmonized.notes`.
        """
        values, is_known, harmonized = self._apply(X, scans)
        return _in_the_form_of(X, values, is_known, harmonized.mean)

    def fit_transform(self, X: Any, y: Any = None, *, scans: pd.DataFrame | None = None) -> Any:
        """Fit, then transform the same scans."""
        return self.fit(X, y, scans=scans).transform(X, scans=scans)

    def inverse_transform(self, X: Any, *, scans: pd.DataFrame | None = None) -> Any:
        """Add the effects that `transform` removes to harmonized scans; parameters as for `transform`."""
        values, is_known, harmonized = self._apply(X, scans, inverse=True)
        return _in_the_form_of(X, values, is_known, harmonized.mean)

    def transform_sd(self, X: Any, *, scans: pd.DataFrame | None = None) -> Any:
        """Return the posterior sd of the output of `transform`, in the units of X; parameters as for `transform`.

        It is 0 for features that are passed through, and NaN where X is missing.
        """
        values, is_known, harmonized = self._apply(X, scans)
        return _in_the_form_of(X, 0 * values, is_known, harmonized.sd)

    def _apply(self, X: Any, scans: pd.DataFrame | None, inverse: bool = False) -> tuple[np.ndarray, np.ndarray, Harmonized]:
        """Return X as numbers, a mask of the features in the posterior, and these harmonized."""
        check_is_fitted(self)
        self._check_options(self.posterior_.spec)
        values = validate_data(self, X, reset=False, dtype=FLOATS, ensure_all_finite="allow-nan")
        features = Features.from_array(values, self.get_feature_names_out().astype(str))
        is_known = np.isin(features.names, self.posterior_.features)
        table = self._read(X, len(values), scans, "apply")
        table = table.drop(columns="diagnosis", errors="ignore")  # may be the target of prediction
        dataset = Dataset(table, features.take(features.names[is_known]))
        posterior, notes = self._adapt(dataset, inverse)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the notes are issued below, as warnings about the user's line
            harmonized = harmonize(posterior, dataset, **asdict(self._options(inverse)))
        for note in dict.fromkeys([*notes, *harmonized.notes]):
            _warn(note)
        return values, is_known, harmonized

    def _specify(self, table: pd.DataFrame) -> tuple[ModelSpec, tuple[str, ...]]:
        """Return the model of a fit to these scans with the choices of the user, and the reasons of `auto`."""
        model, on_choice = resolve_model(self.model, table, self.time)
        return configure_model(model, table, **{name: getattr(self, name) for name in MODEL_OPTIONS}), on_choice

    def _adapt(self, dataset: Dataset, inverse: bool) -> tuple[Posterior, list[str]]:
        """Return the posterior of the fit, adapted to new scanners if this was chosen, and notes."""
        if self.new_scanners == "adapt" and not inverse:
            return adapt_to_new_scanners(self.posterior_, dataset)
        if self.new_scanners == "adapt":
            refuse_inverse_adaptation(self.posterior_, dataset)
        return self.posterior_, []

    def _options(self, inverse: bool) -> CorrectionOptions:
        """Return the options of the correction. After adaptation, a scanner that taught nothing has its prior."""
        new_scanners = "prior" if self.new_scanners == "adapt" else self.new_scanners
        return CorrectionOptions(self.remove, self.target, self.match_gain, self.match_noise, inverse, new_scanners)

    def _check_options(self, spec: ModelSpec) -> None:
        """Refuse impossible options, and those that need the diagnoses of the transformed scans."""
        self._options(inverse=False)
        if self.new_scanners == "adapt" and spec.has_tails:
            raise InputError(
                "A fit with heavy tails cannot learn new scanners.",
                got="new_scanners='adapt', likelihood='student-t'",
                expected="likelihood='gaussian', or other new_scanners",
                do="choose one of these, or fit again with all scans",
            )
        adapts = self.new_scanners == "adapt" and any(family.by in ("diagnosis", "population") for family in spec.families)
        if adapts or len(choose_families(spec, self.remove)) > 1:
            raise InputError(
                "This option needs diagnoses. transform ignores them, since they may be the target of prediction.",
                got=f"remove={self.remove!r}, new_scanners={self.new_scanners!r}",
                expected="only effects of scanners in `remove`; new_scanners='adapt' with a model without diagnoses",
                do="leave the option out, or use bayesharm.adapt and bayesharm.harmonize outside of pipelines",
            )

    def _read(self, X: Any, n_rows: int, scans: pd.DataFrame | None, check: Check) -> pd.DataFrame:
        """Return the table of the scans of X, with canonical column names."""
        if scans is None and self.scans is not None:
            scans = select_rows(self.scans, X)
        return read_scans(check_row_alignment(scans, X, n_rows), self.columns, check=check)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "posterior_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "posterior_" in state:
            state["posterior_"] = pack(self.posterior_)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "posterior_" in state:
            state = {**state, "posterior_": unpack(state["posterior_"])}
        super().__setstate__(state)


def _in_the_form_of(X: Any, unchanged: np.ndarray, is_known: np.ndarray, harmonized: np.ndarray) -> Any:
    """Join harmonized and unchanged features, in the form of X."""
    values = unchanged.copy()
    values[:, is_known] = harmonized
    if not isinstance(X, pd.DataFrame):
        return values
    frame = pd.DataFrame(values, index=X.index, columns=X.columns)
    narrower = {name: dtype for name, dtype in X.dtypes.items() if dtype in FLOATS and dtype != values.dtype}
    return frame.astype(narrower) if narrower else frame


def _warn(note: str) -> None:
    """Warn about the user's line of code, whichever libraries are in between."""
    warnings.warn(note, skip_file_prefixes=LIBRARIES)
