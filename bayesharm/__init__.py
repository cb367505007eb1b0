"""Tells measurement bias from sampling bias in multi-scanner brain imaging, and removes it.

>>> dataset = bayesharm.load_dataset("scans.csv", "features.npy")
>>> posterior = bayesharm.fit(dataset, "traveling_and_cohort", seed=1, out="run")
>>> harmonized = bayesharm.harmonize(posterior, dataset)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bayesharm.analysis.model_comparison import Comparison, compare
    from bayesharm.analysis.population_structure import Populations, populations
    from bayesharm.analysis.scanner_similarity import Similarity, compare_scanners
    from bayesharm.analysis.summary import Summary, summarize
    from bayesharm.analysis.variance_components import Sources, compare_sources
    from bayesharm.baselines import Yamashita2019, one_factor_at_a_time, yamashita2019
    from bayesharm.data.dataset import Dataset, load_dataset
    from bayesharm.datasets.download import fetch_onharmony
    from bayesharm.datasets.simulate import Simulation, simulate_srpbs
    from bayesharm.errors import BayesharmError, InputError, ModelError, RunFolderError
    from bayesharm.evaluation.evaluate import evaluate
    from bayesharm.evaluation.result import Evaluation
    from bayesharm.fitting.fit import fit
    from bayesharm.fitting.settings import Settings
    from bayesharm.harmonization.adaptation import adapt
    from bayesharm.harmonization.estimator import BayesHarmonizer
    from bayesharm.harmonization.harmonize import Harmonized, harmonize, harmonize_to_files
    from bayesharm.harmonization.prediction import Prediction, predict
    from bayesharm.model.catalog import load_model, model_card, model_names
    from bayesharm.model.spec import ModelSpec
    from bayesharm.propagation.analyses import contrast, correlation, estimator_score, group_difference
    from bayesharm.propagation.least_squares import Estimate
    from bayesharm.propagation.pooling import compare_propagation, pool, propagate
    from bayesharm.results.posterior import Posterior, load_posterior

# Public name -> module; imported when it is first used, so that `import bayesharm` is quick.
_HOMES = {
    "Dataset": "data.dataset", "load_dataset": "data.dataset", "fetch_onharmony": "datasets.download",
    "BayesharmError": "errors", "InputError": "errors", "ModelError": "errors", "RunFolderError": "errors",
    "Settings": "fitting.settings", "fit": "fitting.fit", "BayesHarmonizer": "harmonization.estimator",
    "adapt": "harmonization.adaptation", "Prediction": "harmonization.prediction", "predict": "harmonization.prediction",
    "Evaluation": "evaluation.result", "evaluate": "evaluation.evaluate",
    "Harmonized": "harmonization.harmonize", "harmonize": "harmonization.harmonize", "harmonize_to_files": "harmonization.harmonize",
    "pool": "propagation.pooling", "propagate": "propagation.pooling", "compare_propagation": "propagation.pooling",
    "contrast": "propagation.analyses", "group_difference": "propagation.analyses", "correlation": "propagation.analyses", "estimator_score": "propagation.analyses",
    "Estimate": "propagation.least_squares",
    "Comparison": "analysis.model_comparison", "compare": "analysis.model_comparison", "Populations": "analysis.population_structure", "populations": "analysis.population_structure",
    "Posterior": "results.posterior", "load_posterior": "results.posterior",
    "Similarity": "analysis.scanner_similarity", "compare_scanners": "analysis.scanner_similarity",
    "Simulation": "datasets.simulate", "simulate_srpbs": "datasets.simulate",
    "ModelSpec": "model.spec", "load_model": "model.catalog", "model_card": "model.catalog", "model_names": "model.catalog",
    "Sources": "analysis.variance_components", "compare_sources": "analysis.variance_components",
    "Summary": "analysis.summary", "summarize": "analysis.summary",
    "Yamashita2019": "baselines", "yamashita2019": "baselines", "one_factor_at_a_time": "baselines",
}  # fmt: skip

__all__ = [
    "BayesHarmonizer", "BayesharmError", "Comparison", "Dataset", "Estimate", "Evaluation", "Harmonized",
    "InputError", "ModelError", "ModelSpec", "Populations", "Posterior", "Prediction", "RunFolderError", "Settings",
    "Similarity", "Simulation", "Sources", "Summary", "Yamashita2019", "__version__", "adapt", "compare",
    "compare_propagation", "compare_scanners", "compare_sources", "contrast", "correlation", "estimator_score",
    "evaluate", "fetch_onharmony", "fit", "group_difference", "harmonize", "harmonize_to_files", "load_dataset",
    "load_model", "load_posterior", "model_card", "model_names", "one_factor_at_a_time", "pool", "populations",
    "predict", "propagate", "simulate_srpbs", "summarize", "yamashita2019",
]  # fmt: skip

__version__: str


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("bayesharm")
    if name not in _HOMES:
        raise AttributeError(f"module 'bayesharm' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(f"bayesharm.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
