"""The harmonizer as a scikit-learn transformer: for pipelines and cross-validation, learning from training scans only."""

from __future__ import annotations

import io
import tempfile
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
from bayesharm.fitting.fit import configure_model, fit
from bayesharm.harmonization.harmonize import Harmonized, harmonize
from bayesharm.harmonization.selection import NewScanners, choose_families
from bayesharm.model.design import build_design
from bayesharm.model.spec import ModelSpec
from bayesharm.results.posterior import Posterior, load_posterior

FLOATS = (np.float64, np.float32)
LIBRARIES = tuple(str(Path(file).parent) for file in (__file__, sklearn.__file__, joblib.__file__))


class BayesHarmonizer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Takes the effects of scanners out of features, as a scikit-learn transformer.

    `fit` samples the posterior (:func:`bayesharm.fit`) of the scans that it is given and of no others, so that nothing of
    the test people leaks where a pipeline is cross-validated; `transform` harmonizes any scans on these scanners
    (:func:`bayesharm.harmonize`).

    Every method takes, beside X of shape (scan, feature), the table `scans` with one row for each row of X, in X's order:
    `participant_id`, `scanner`, and where there are `site`, `diagnosis`, `traveling` and covariates. The methods request
    it: with ``sklearn.set_config(enable_metadata_routing=True)`` pipelines and cross-validation pass it on
    (``params={"scans": scans}``). scikit-learn does not pass it on where it scores by name (``scoring="roc_auc"``) nor in
    ``cross_val_predict``: there, give the table to the constructor.

    Parameters
    ----------
    model : str or ModelSpec
        As for :func:`bayesharm.fit`, like `covariates`, `protocol`, `reference`, `feature_scaling` and `seed`.
    columns : mapping, optional
        Our name -> the column of `scans`, such as ``{"participant_id": "subject"}``.
    scans : DataFrame, optional
        A table of all scans, for methods that are not given one. X must be a DataFrame then: its rows are found by its
        index, in the column `scan_id` of the table or, if there is none, in the index.
    remove, target, match_noise, new_scanners
        As for :func:`bayesharm.harmonize`. They matter to `transform` only: to change them nothing has to be fitted again.
        With ``new_scanners="adapt"`` what a new scanner does is learned from the scans that are transformed. What needs the
        diagnosis of these scans is refused: to remove sampling, and to adapt a model of disorder effects.
    preview : bool
        Fit quickly and roughly, without sampling.
    settings : mapping, optional
        More of :class:`bayesharm.Settings`.

    Attributes
    ----------
    posterior_ : Posterior
        Of the features that vary, called as in X or, if these have no names, `x0`, `x1`, …
    n_features_in_ : int
    feature_names_in_ : (feature,) array
        If X had them.

    Notes
    -----
    What comes out is what went in: DataFrames with the same index, columns and types, or arrays; float32 stays float32,
    other numbers become float64. Missing values are refused by `fit`; `transform` leaves them missing. Features that do
    not vary over the scans that the model uses are passed through as they are, with a warning.

    A pickled estimator holds its posterior as the files of a run folder.
    """

    __metadata_request__fit = {"scans": True}
    __metadata_request__transform = {"scans": True}
    __metadata_request__inverse_transform = {"scans": True}

    def __init__(
        self,
        model: str | ModelSpec = "traveling_and_cohort",
        *,
        covariates: Sequence[str] = (),
        protocol: Sequence[str] = (),
        reference: str | None = None,
        feature_scaling: str | None = None,
        columns: Mapping[str, str] | None = None,
        scans: pd.DataFrame | None = None,
        remove: str | Sequence[str] | None = None,
        target: str | None = None,
        match_noise: bool = False,
        new_scanners: NewScanners = "error",
        preview: bool = False,
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
    ):
        self.model = model
        self.covariates = covariates
        self.protocol = protocol
        self.reference = reference
        self.feature_scaling = feature_scaling
        self.columns = columns
        self.scans = scans
        self.remove = remove
        self.target = target
        self.match_noise = match_noise
        self.new_scanners = new_scanners
        self.preview = preview
        self.seed = seed
        self.settings = settings

    def fit(self, X: Any, y: Any = None, *, scans: pd.DataFrame | None = None) -> BayesHarmonizer:
        """Learn what scanners do.

        Parameters
        ----------
        X : (scan, feature) array or DataFrame
        y : ignored
        scans : DataFrame
            One row for each row of X.

        Raises
        ------
        InputError, ModelError
            Values are missing, no feature varies, or scans and model do not fit: both are kinds of ValueError.

        Warns
        -----
        UserWarning
            Features do not vary and are passed through.
        """
        values = validate_data(self, X, dtype=FLOATS, ensure_all_finite="allow-nan", ensure_min_samples=2)
        names = self.get_feature_names_out().astype(str)
        _refuse_missing(values, names)
        table = self._read(X, len(values), scans, "fit")
        features = Features.from_array(values, names)
        spec = configure_model(
            self.model,
            Dataset(table, features),
            covariates=self.covariates,
            protocol=self.protocol,
            reference=self.reference,
            feature_scaling=self.feature_scaling,
        )
        self._check_options(spec)
        flaws = find_flaws(features.align(build_design(table, spec).rows))
        dropped = flaws.reasons(names)
        if len(dropped) == len(names):
            raise InputError(
                "No feature varies over the scans that the model uses.",
                got=f"{len(names)} constant features: {shorten(names)}",
                expected="features that differ between scans",
                do="check the values",
            )
        if dropped:
            _warn(
                f"{len(dropped)} of {len(names)} features do not vary over the scans of the fit and are passed through "
                f"as they are: {shorten(dropped)}."
            )
        dataset = Dataset(table, features.take(names[~flaws.constant]), dropped)
        settings = {"preview": self.preview} | dict(self.settings or {})
        self.posterior_ = fit(dataset, spec, seed=self.seed, **settings)
        return self

    def transform(self, X: Any, *, scans: pd.DataFrame | None = None) -> Any:
        """Harmonize scans on the scanners of the fit.

        Parameters
        ----------
        X : (scan, feature) array or DataFrame
            Features as in the fit; missing values stay missing.
        scans : DataFrame
            One row for each row of X. Diagnoses are not looked at, since they may be what is to be predicted; covariates are
            needed only to `match_noise`.

        Returns
        -------
        (scan, feature) array or DataFrame
            In the units of X.

        Raises
        ------
        NotFittedError
        InputError
            X and `scans` do not belong together, or a scanner is unknown.

        Warns
        -----
        UserWarning
            For each of `Harmonized.notes`.
        """
        values, known, found = self._apply(X, scans)
        return _in_the_form_of(X, values, known, found.mean)

    def fit_transform(self, X: Any, y: Any = None, *, scans: pd.DataFrame | None = None) -> Any:
        """`fit`, then `transform` of the same scans."""
        return self.fit(X, y, scans=scans).transform(X, scans=scans)

    def inverse_transform(self, X: Any, *, scans: pd.DataFrame | None = None) -> Any:
        """Add to harmonized scans what `transform` has taken out; parameters as there."""
        values, known, found = self._apply(X, scans, inverse=True)
        return _in_the_form_of(X, values, known, found.mean)

    def transform_sd(self, X: Any, *, scans: pd.DataFrame | None = None) -> Any:
        """Posterior sd of what `transform` takes out, in the units of X; parameters as there.

        It is 0 for features that are passed through, and missing where X is.
        """
        values, known, found = self._apply(X, scans)
        return _in_the_form_of(X, 0 * values, known, found.sd)

    def _apply(self, X: Any, scans: pd.DataFrame | None, inverse: bool = False) -> tuple[np.ndarray, np.ndarray, Harmonized]:
        """X as numbers, which of its features the posterior knows, and these harmonized."""
        check_is_fitted(self)
        self._check_options(self.posterior_.spec)
        values = validate_data(self, X, reset=False, dtype=FLOATS, ensure_all_finite="allow-nan")
        features = Features.from_array(values, self.get_feature_names_out().astype(str))
        known = np.isin(features.names, self.posterior_.features)
        table = self._read(X, len(values), scans, "apply")
        table = table.drop(columns="diagnosis", errors="ignore")  # may be what is to be predicted
        dataset = Dataset(table, features.take(features.names[known]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its notes are said below, of the user's line
            found = harmonize(
                self.posterior_,
                dataset,
                remove=self.remove,
                target=self.target,
                match_noise=self.match_noise,
                new_scanners=self.new_scanners,
                inverse=inverse,
            )
        for note in found.notes:
            _warn(note)
        return values, known, found

    def _check_options(self, spec: ModelSpec) -> None:
        """Refuse what needs the diagnoses of the scans that are transformed."""
        adapts = self.new_scanners == "adapt" and any(
            family.grouping in ("diagnosis", "population") for family in spec.families
        )
        if adapts or len(choose_families(spec, self.remove)) > 1:
            raise InputError(
                "transform does not look at diagnoses, which may be what is to be predicted, and this option needs them.",
                got=f"remove={self.remove!r}, new_scanners={self.new_scanners!r}",
                expected="only effects of scanners in `remove`; new_scanners='adapt' with a model that has no diagnoses",
                do="leave the option out, or use bayesharm.harmonize, outside of pipelines",
            )

    def _read(self, X: Any, n_rows: int, scans: pd.DataFrame | None, check: Check) -> pd.DataFrame:
        """The scans of X under our names."""
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
            state["posterior_"] = _pack(self.posterior_)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "posterior_" in state:
            state = {**state, "posterior_": _unpack(state["posterior_"])}
        super().__setstate__(state)


def _refuse_missing(values: np.ndarray, names: np.ndarray) -> None:
    missing = np.isnan(values)
    if missing.any():
        raise InputError(
            "The features contain NaN.",
            got=f"{missing.sum()} missing values in {shorten(names[missing.any(0)])}, "
            f"in {missing.any(1).sum()} of {len(values)} scans",
            expected="a finite number for every scan and feature that the model is fitted to",
            do="fill them in a step before this one (sklearn.impute), or leave these features or scans out",
        )


def _in_the_form_of(X: Any, others: np.ndarray, known: np.ndarray, harmonized: np.ndarray) -> Any:
    """The features that the posterior knows and the others, as what X is."""
    values = others.copy()
    values[:, known] = harmonized
    if not isinstance(X, pd.DataFrame):
        return values
    frame = pd.DataFrame(values, index=X.index, columns=X.columns)
    narrower = {name: dtype for name, dtype in X.dtypes.items() if dtype in FLOATS and dtype != values.dtype}
    return frame.astype(narrower) if narrower else frame


def _warn(note: str) -> None:
    """As about the user's line, whichever libraries are in between."""
    warnings.warn(note, skip_file_prefixes=LIBRARIES)


def _pack(posterior: Posterior) -> bytes:
    """The run folder as a zip, the same bytes for the same posterior."""
    packed = io.BytesIO()
    with tempfile.TemporaryDirectory() as place, zipfile.ZipFile(packed, "w") as archive:
        folder = posterior.save(Path(place) / "run")
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.writestr(zipfile.ZipInfo(path.relative_to(folder).as_posix()), path.read_bytes())
    return packed.getvalue()


def _unpack(packed: bytes) -> Posterior:
    with tempfile.TemporaryDirectory() as place, zipfile.ZipFile(io.BytesIO(packed)) as archive:
        archive.extractall(place)
        return load_posterior(place)
