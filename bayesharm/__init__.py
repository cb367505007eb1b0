"""Separation of measurement bias from sampling bias in multi-scanner brain imaging, and its removal.

>>> dataset = bayesharm.load_dataset("scans.csv", "features.npy")
>>> posterior = bayesharm.fit(dataset, "traveling_and_cohort", seed=1, out="run")
>>> harmonized = bayesharm.harmonize(posterior, dataset)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bayesharm.analysis.feature_draws import feature_draws as feature_draws
    from bayesharm.analysis.formula_columns import formula_columns as formula_columns
    from bayesharm.analysis.model_comparison import ModelComparison as ModelComparison
    from bayesharm.analysis.model_comparison import compare_models as compare_models
    from bayesharm.analysis.population_structure import (
        PopulationTest as PopulationTest,
    )
    from bayesharm.analysis.population_structure import (
        test_populations as test_populations,
    )
    from bayesharm.analysis.prior_sensitivity import (
        PriorSensitivity as PriorSensitivity,
    )
    from bayesharm.analysis.prior_sensitivity import (
        prior_sensitivity as prior_sensitivity,
    )
    from bayesharm.analysis.scanner_similarity import (
        ScannerSimilarity as ScannerSimilarity,
    )
    from bayesharm.analysis.scanner_similarity import (
        scanner_similarity as scanner_similarity,
    )
    from bayesharm.analysis.summary import Summary as Summary
    from bayesharm.analysis.summary import summarize as summarize
    from bayesharm.analysis.variance_components import (
        VarianceComponents as VarianceComponents,
    )
    from bayesharm.analysis.variance_components import (
        variance_components as variance_components,
    )
    from bayesharm.baselines.yamashita import (
        Yamashita2019 as Yamashita2019,
    )
    from bayesharm.baselines.yamashita import (
        univariate_effects as univariate_effects,
    )
    from bayesharm.baselines.yamashita import (
        yamashita2019 as yamashita2019,
    )
    from bayesharm.data.connectivity import Connectivity as Connectivity
    from bayesharm.data.connectivity import connectivity as connectivity
    from bayesharm.data.dataset import Dataset as Dataset
    from bayesharm.data.dataset import load_dataset as load_dataset
    from bayesharm.data.screening.screen import screen as screen
    from bayesharm.datasets.download import (
        fetch_fcon1000 as fetch_fcon1000,
    )
    from bayesharm.datasets.download import (
        fetch_onharmony as fetch_onharmony,
    )
    from bayesharm.datasets.longitudinal import simulate_longitudinal as simulate_longitudinal
    from bayesharm.datasets.simulate import Simulation as Simulation
    from bayesharm.datasets.simulate import simulate_srpbs as simulate_srpbs
    from bayesharm.errors import (
        BayesharmError as BayesharmError,
    )
    from bayesharm.errors import (
        InputError as InputError,
    )
    from bayesharm.errors import (
        ModelError as ModelError,
    )
    from bayesharm.errors import (
        RunFolderError as RunFolderError,
    )
    from bayesharm.evaluation.cross_validate import cross_validate as cross_validate
    from bayesharm.evaluation.result import Evaluation as Evaluation
    from bayesharm.fitting.fit import fit as fit
    from bayesharm.fitting.settings import Settings as Settings
    from bayesharm.harmonization.adaptation import adapt as adapt
    from bayesharm.harmonization.estimator import BayesHarmonizer as BayesHarmonizer
    from bayesharm.harmonization.harmonize import (
        Harmonized as Harmonized,
    )
    from bayesharm.harmonization.harmonize import (
        harmonize as harmonize,
    )
    from bayesharm.harmonization.harmonize import (
        harmonize_to_files as harmonize_to_files,
    )
    from bayesharm.harmonization.prediction import Prediction as Prediction
    from bayesharm.harmonization.prediction import predict as predict
    from bayesharm.model.catalog import (
        load_model as load_model,
    )
    from bayesharm.model.catalog import (
        model_card as model_card,
    )
    from bayesharm.model.catalog import (
        model_names as model_names,
    )
    from bayesharm.model.spec import ModelSpec as ModelSpec
    from bayesharm.propagation.analyses import (
        contrast as contrast,
    )
    from bayesharm.propagation.analyses import (
        correlation as correlation,
    )
    from bayesharm.propagation.analyses import (
        estimator_score as estimator_score,
    )
    from bayesharm.propagation.analyses import (
        group_difference as group_difference,
    )
    from bayesharm.propagation.least_squares import FeatureEstimates as FeatureEstimates
    from bayesharm.propagation.pooling import (
        compare_propagation as compare_propagation,
    )
    from bayesharm.propagation.pooling import (
        pool as pool,
    )
    from bayesharm.propagation.pooling import (
        propagate as propagate,
    )
    from bayesharm.reporting.html import write_report as write_report
    from bayesharm.results.posterior import Posterior as Posterior
    from bayesharm.results.posterior import load_posterior as load_posterior
    from bayesharm.study_check.check import check as check
    from bayesharm.study_check.result import StudyCheck as StudyCheck

# Module -> its public names, imported when they are first used, so that `import bayesharm` is quick.
_PUBLIC = {
    "analysis.feature_draws": ["feature_draws"],
    "analysis.formula_columns": ["formula_columns"],
    "analysis.model_comparison": ["ModelComparison", "compare_models"],
    "analysis.population_structure": ["PopulationTest", "test_populations"],
    "analysis.prior_sensitivity": ["PriorSensitivity", "prior_sensitivity"],
    "analysis.scanner_similarity": ["ScannerSimilarity", "scanner_similarity"],
    "analysis.summary": ["Summary", "summarize"],
    "analysis.variance_components": ["VarianceComponents", "variance_components"],
    "baselines.yamashita": ["Yamashita2019", "univariate_effects", "yamashita2019"],
    "data.connectivity": ["Connectivity", "connectivity"],
    "data.dataset": ["Dataset", "load_dataset"],
    "data.screening.screen": ["screen"],
    "datasets.download": ["fetch_fcon1000", "fetch_onharmony"],
    "datasets.longitudinal": ["simulate_longitudinal"],
    "datasets.simulate": ["Simulation", "simulate_srpbs"],
    "errors": ["BayesharmError", "InputError", "ModelError", "RunFolderError"],
    "evaluation.cross_validate": ["cross_validate"],
    "evaluation.result": ["Evaluation"],
    "fitting.fit": ["fit"],
    "fitting.settings": ["Settings"],
    "harmonization.adaptation": ["adapt"],
    "harmonization.estimator": ["BayesHarmonizer"],
    "harmonization.harmonize": ["Harmonized", "harmonize", "harmonize_to_files"],
    "harmonization.prediction": ["Prediction", "predict"],
    "model.catalog": ["load_model", "model_card", "model_names"],
    "model.spec": ["ModelSpec"],
    "propagation.analyses": ["contrast", "correlation", "estimator_score", "group_difference"],
    "propagation.least_squares": ["FeatureEstimates"],
    "propagation.pooling": ["compare_propagation", "pool", "propagate"],
    "reporting.html": ["write_report"],
    "results.posterior": ["Posterior", "load_posterior"],
    "study_check.check": ["check"],
    "study_check.result": ["StudyCheck"],
}
_HOMES = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = [*_HOMES, "__version__"]

__version__: str


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("bayesharm")
    if name not in _HOMES:
        raise AttributeError(f"module 'bayesharm' has no attribute {name!r}; it has {', '.join(sorted(__all__))}")
    value = getattr(import_module(f"bayesharm.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
