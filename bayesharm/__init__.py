"""Tells measurement bias from sampling bias in multi-scanner brain imaging, and removes it.

>>> dataset = bayesharm.load_dataset("scans.csv", "features.npy")
>>> posterior = bayesharm.fit(dataset, "traveling_and_cohort", seed=1, out="run")
>>> harmonized = bayesharm.harmonize(posterior, dataset)
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bayesharm.adapt import adapt
    from bayesharm.analyses import contrast, correlation, estimator_score, group_difference
    from bayesharm.baselines import Yamashita2019, one_factor_at_a_time, yamashita2019
    from bayesharm.block import Settings
    from bayesharm.compare import Comparison, compare
    from bayesharm.dataset import Dataset, load_dataset
    from bayesharm.datasets import fetch_onharmony
    from bayesharm.downstream import compare_propagation, pool, propagate
    from bayesharm.errors import BayesharmError, InputError, ModelError, RunFolderError
    from bayesharm.estimator import BayesHarmonizer
    from bayesharm.evaluate import Evaluation, evaluate
    from bayesharm.fit import fit
    from bayesharm.harmonize import Harmonized, harmonize, harmonize_to_files
    from bayesharm.least_squares import Estimate
    from bayesharm.populations import Populations, populations
    from bayesharm.posterior import Posterior, load_posterior
    from bayesharm.predict import Prediction, predict
    from bayesharm.similarity import Similarity, compare_scanners
    from bayesharm.simulate import Simulation, simulate_srpbs
    from bayesharm.sources import Sources, compare_sources
    from bayesharm.spec import ModelSpec, load_model, model_card, model_names
    from bayesharm.summary import Summary, summarize

# Public name -> module; imported when it is first used, so that `import bayesharm` is quick.
_HOMES = {
    "Dataset": "dataset", "load_dataset": "dataset", "fetch_onharmony": "datasets",
    "BayesharmError": "errors", "InputError": "errors", "ModelError": "errors", "RunFolderError": "errors",
    "Settings": "block", "fit": "fit", "BayesHarmonizer": "estimator",
    "adapt": "adapt", "Prediction": "predict", "predict": "predict",
    "Evaluation": "evaluate", "evaluate": "evaluate",
    "Harmonized": "harmonize", "harmonize": "harmonize", "harmonize_to_files": "harmonize",
    "pool": "downstream", "propagate": "downstream", "compare_propagation": "downstream",
    "contrast": "analyses", "group_difference": "analyses", "correlation": "analyses", "estimator_score": "analyses",
    "Estimate": "least_squares",
    "Comparison": "compare", "compare": "compare", "Populations": "populations", "populations": "populations",
    "Posterior": "posterior", "load_posterior": "posterior",
    "Similarity": "similarity", "compare_scanners": "similarity",
    "Simulation": "simulate", "simulate_srpbs": "simulate",
    "ModelSpec": "spec", "load_model": "spec", "model_card": "spec", "model_names": "spec",
    "Sources": "sources", "compare_sources": "sources",
    "Summary": "summary", "summarize": "summary",
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


class _Package(ModuleType):
    """Keeps ``bayesharm.fit`` the function: importing the module of that name would put that in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and name in _HOMES:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
