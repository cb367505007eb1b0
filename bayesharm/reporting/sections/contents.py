"""The sections of a report in their order, after the first screen."""

from __future__ import annotations

from collections.abc import Callable

from bayesharm.reporting.run_view import RunView
from bayesharm.reporting.section import Section
from bayesharm.reporting.sections.features import describe_features, describe_populations, describe_regions
from bayesharm.reporting.sections.methods import describe_glossary, describe_methods, describe_reproduction
from bayesharm.reporting.sections.reliability import (
    describe_convergence,
    describe_fit,
    describe_prior_sensitivity,
    describe_reliability,
)
from bayesharm.reporting.sections.scanners import describe_bias_map, describe_scanners, describe_similarity
from bayesharm.reporting.sections.sources import (
    describe_contributions,
    describe_covariates,
    describe_ranking,
    describe_scales,
    describe_sources,
)
from bayesharm.reporting.sections.study import describe_check, describe_study

SECTIONS: tuple[Callable[[RunView], Section | None], ...] = (
    describe_reliability, describe_study, describe_check, describe_sources, describe_covariates, describe_ranking,
    describe_scanners, describe_features, describe_bias_map, describe_regions, describe_similarity, describe_populations,
    describe_fit, describe_prior_sensitivity, describe_methods, describe_reproduction, describe_scales,
    describe_convergence, describe_contributions, describe_glossary,
)  # fmt: skip
