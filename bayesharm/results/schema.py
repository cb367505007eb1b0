"""The results tree of a run, declared once: groups, arrays, dimensions, units and meaning.

Writing, checking, repairing and the table in ``docs/reference/run_folder.md`` all follow from these declarations.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesharm.results.labels import number_draws

if TYPE_CHECKING:
    import xarray as xr

FEATURES_PER_FILE = 2048  # features whose values share a file: a damaged file costs few features
LEVEL = "level"  # stands for the dimension of the levels of a family: scanner, population, …

SD = "standard deviations of a feature"
FEATURE_UNITS = "units of the feature"
LOG_SD = "natural logarithm of standard deviations of a feature"
RATIO = "variance ratio, geometric mean 1 over scanners"
FACTOR = "factor, geometric mean 1 over scanners"
NONE = ""
SQUARES = "draws of the mean over features of the squared effect, where these were sampled together; as in `sources`"


@dataclass(frozen=True)
class Variable:
    """An array of a group.

    Attributes
    ----------
    name : str
    dims : tuple of str
    units : str
        Empty for counts, labels and dimensionless numbers.
    description : str
    optional : bool
        Whether some runs lack it.
    """

    name: str
    dims: tuple[str, ...]
    units: str
    description: str
    optional: bool = False


@dataclass(frozen=True)
class Group:
    """A group of the results tree.

    Attributes
    ----------
    path : str
        Below the root; ``effects/*`` stands for one group of each family.
    description : str
    variables : tuple of Variable
    required : bool
        Whether every run has the group.
    """

    path: str
    description: str
    variables: tuple[Variable, ...]
    required: bool = True

    def dataset(
        self,
        arrays: Mapping[str, np.ndarray],
        coords: Mapping[str, Any],
        attrs: Mapping[str, Any] | None = None,
        *,
        level: str = "",
    ) -> xr.Dataset:
        """Label arrays as this group declares them.

        Parameters
        ----------
        arrays : mapping of arrays
            By name of the variable; others are ignored.
        coords : mapping
            Labels of the dimensions.
        attrs : mapping, optional
            Of the group.
        level : str
            The dimension that stands in the place of ``level``.

        Raises
        ------
        KeyError
            A variable that every run has is missing.
        """
        import xarray as xr

        data = {}
        for variable in self.variables:
            if variable.name not in arrays and variable.optional:
                continue
            dims = tuple(level if dim == LEVEL else dim for dim in variable.dims)
            about = {"units": variable.units} if variable.units else {}
            data[variable.name] = xr.Variable(dims, arrays[variable.name], about | {"description": variable.description})
        about = {"description": self.description, **(attrs or {})}
        return number_draws(xr.Dataset(data, coords=dict(coords), attrs=about))

    def find_faults(self, dataset: xr.Dataset) -> list[str]:
        """Name the variables that a dataset lacks, or has with other dimensions."""
        faults = []
        for variable in self.variables:
            if variable.name not in dataset:
                faults += [] if variable.optional else [f"no {self.path}/{variable.name}"]
            elif LEVEL not in variable.dims and dataset[variable.name].dims != variable.dims:
                faults.append(f"{self.path}/{variable.name} over {', '.join(map(str, dataset[variable.name].dims))}")
        return faults

    def matches(self, path: str) -> bool:
        """Whether a path of the tree is this group, or one of its kind."""
        return re.fullmatch(re.escape(self.path).replace(r"\*", "[^/]+"), path) is not None


SCANNER_RATIOS = ("noise_ratio", "bias_ratio", "gain")
HYPER = Group(
    "hyper",
    "posterior draws of the quantities that all features share; the ratios are drawn independently of eta and omega. With "
    "`--noise-ratio scanner-feature`, the entry `noise_ratio` of `family` stands for all these ratios; its eta is 0. "
    "Attributes: `features`, the number of features from which they were learned; `n_independent_features`, their effective "
    "number of independent features; `ratio_rhat`, the largest R-hat of the log ratios (1 if they were not sampled); "
    "`reliable`, 0 if the importance samples of a preview, or those of heavy tails, are not",
    (
        Variable("eta", ("chain", "draw", "family"), LOG_SD, "mean over features of the log-scales"),
        Variable("omega", ("chain", "draw", "family"), LOG_SD, "standard deviation over features of the log-scales"),
        Variable("noise_ratio", ("chain", "draw", "scanner"), RATIO, "lambda: noise variance of a scanner"),
        Variable("bias_ratio", ("chain", "draw", "scanner"), RATIO, "kappa: prior variance of the biases of a scanner"),
        Variable("gain", ("chain", "draw", "scanner"), FACTOR, "g: factor on differences between people"),
        Variable(
            "slope_correlation", ("chain", "draw", "slope_family"), NONE, "rho: correlation of intercepts and slopes", True
        ),
        Variable("tail_share", ("chain", "draw"), NONE, "share of the values with Student-t noise", True),
        Variable("tail_df", ("chain", "draw"), NONE, "degrees of freedom of Student-t noise", True),
    ),
)

SCALES = Group(
    "scales",
    "posterior of the scale of each family in each feature, and convergence of each feature; q05 to q95 is a 90% interval. "
    "`noise_ratio_<scanner>`, if the model has it, is no scale and has no unit: the factor of the scanner's noise sd in the "
    "feature, beside the square root of its lambda",
    (
        Variable("mean", ("family", "feature"), FEATURE_UNITS, "posterior mean of the scale"),
        Variable("sd", ("family", "feature"), FEATURE_UNITS, "posterior standard deviation of the scale"),
        *(
            Variable(f"q{share}", ("family", "feature"), FEATURE_UNITS, f"{int(share)}% quantile of the scale")
            for share in ("05", "50", "95")
        ),
        Variable("ess_bulk", ("family", "feature"), NONE, "bulk effective sample size of the log-scale"),
        Variable("rhat", ("family", "feature"), NONE, "rank-normalized split R-hat of the log-scale"),
        Variable("divergences", ("feature",), NONE, "divergent NUTS transitions"),
        Variable("khat", ("feature",), NONE, "Pareto-k of the Laplace approximation"),
        Variable("converged", ("feature",), NONE, "whether the chains have converged"),
        Variable("reason", ("feature",), NONE, "code of the reason why a feature has not converged"),
        Variable("n_draws", ("feature",), NONE, "draws of all chains"),
        Variable("leapfrog_steps", ("feature",), NONE, "leapfrog steps of all draws"),
        Variable("center", ("feature",), FEATURE_UNITS, "mean over the scans of the fit, subtracted before fitting"),
        Variable("feature_scale", ("feature",), FEATURE_UNITS, "divisor of the feature: its sd, or a common one"),
    ),
)

EFFECTS = Group(
    "effects/*",
    "posterior of the effects of a family, as finite-population contrasts",
    (
        Variable("mean", (LEVEL, "feature"), FEATURE_UNITS, "posterior mean"),
        Variable("sd", (LEVEL, "feature"), FEATURE_UNITS, "posterior standard deviation"),
        Variable("mean_square", ("draw", LEVEL), NONE, SQUARES, True),
        Variable("square_variance", (LEVEL,), NONE, "variance of the squared effect in a feature, mean over features", True),
        Variable("contraction", (LEVEL,), NONE, "1 − posterior variance / prior variance, at typical scales"),
        Variable("n_scans", (LEVEL,), NONE, "scans that have the level"),
        Variable("correlation", (LEVEL, "other"), NONE, "posterior correlation of two levels, at typical scales", True),
        Variable("with_scanner", (LEVEL, "scanner_effect"), NONE, "posterior correlation with the scanners' effects", True),
        Variable("with_slope", (LEVEL, "scanner_slope"), NONE, "posterior correlation with the scanners' slopes", True),
        Variable("in_fit", (LEVEL,), NONE, "whether the level was in the fit, or was learned later", True),
    ),
)

FINITE_POPULATION = Group(
    "finite_population",
    "sizes of the effects of each family in each feature; `statistic` is mean, sd, q05, q50 or q95",
    (
        Variable(
            "finite_sd",
            ("statistic", "family", "feature"),
            FEATURE_UNITS,
            "finite-population standard deviation of the effects: that of the levels in the study",
        ),
        Variable(
            "contribution",
            ("statistic", "family", "feature"),
            NONE,
            "mean over scans of the squared effect over the sum of all squared effects and the squared residual, divided by "
            "the number of levels; noise: share of the squared residual",
        ),
        Variable(
            "finite_covariance",
            ("family", "other", "feature"),
            "squared units of the feature",
            "posterior covariance of the finite_sd of two families",
        ),
        Variable(
            "probability_larger", ("family", "other", "feature"), NONE, "probability that finite_sd exceeds that of `other`"
        ),
        Variable(
            "covariance_with_log_scale",
            ("size", "family", "feature"),
            FEATURE_UNITS,
            "posterior covariance of a size (tau, finite_sd, contribution) with the log-scale of its family",
        ),
    ),
    required=False,
)

SIZE_DRAWS = Group(
    "size_draws",
    "draws of the sizes of all features together, in runs that sampled these together with the hyperparameters",
    (
        Variable("tau", ("draw", "family", "feature"), FEATURE_UNITS, "the scale"),
        Variable("finite_sd", ("draw", "family", "feature"), FEATURE_UNITS, "as in `/finite_population`"),
        Variable("contribution", ("draw", "family", "feature"), NONE, "as in `/finite_population`"),
    ),
    required=False,
)

ERROR_PATTERNS = Group(
    "error_patterns",
    "how the errors of the effects are correlated over features: products of the patterns of two features",
    (
        Variable("error_pattern", ("entry", "feature"), NONE, "residuals of a feature in random sums over scans; length 1"),
        Variable("residual_dof", ("feature",), NONE, "degrees of freedom of the residuals"),
    ),
)

DRAWS = Group(
    "draws",
    "posterior draws of the scales, if the run keeps them; chains are joined",
    (Variable("scales", ("draw", "family", "feature"), FEATURE_UNITS, "draws of the scale"),),
    required=False,
)

SCAN_WEIGHTS = Group(
    "scan_weights",
    "weights of the scans, with Student-t noise: the noise variance of a value is divided by its weight",
    (
        Variable("mean_weight", ("scan",), NONE, "mean over features of the posterior mean of the weight"),
        Variable("low_share", ("scan",), NONE, "share of the features in which the posterior mean is below 0.3"),
    ),
    required=False,
)

DESIGN = Group(
    "design",
    "scanners of the study",
    (
        Variable("component", ("scanner",), NONE, "group of scanners that travelers connect"),
        Variable("n_scans", ("scanner",), NONE, "scans"),
        Variable("n_travelers", ("scanner",), NONE, "traveling subjects"),
        Variable("n_single_scan", ("scanner",), NONE, "participants scanned once"),
        Variable("n_observed", ("scanner", "feature"), NONE, "observed scans, if features lack scans", True),
    ),
)

SUFFICIENT_STATISTICS = Group(
    "sufficient_statistics",
    "sums of products of the standardized scans within noise classes: to adapt to new scans, a run needs no old ones. With "
    "Student-t noise, sums of each feature are weighted by the posterior means of the weights",
    (
        Variable("dense", ("dense_entry", "feature"), SD, "products of dense columns and features"),
        Variable("eliminated", ("eliminated_entry", "feature"), SD, "products of eliminated columns and features"),
        Variable("squares", ("noise_class", "feature"), "variances of a feature", "sums of squares"),
        Variable("counts", ("count", "feature"), NONE, "counts of the observed scans, if features lack scans", True),
        Variable("class_counts", ("noise_class", "feature"), NONE, "observed scans, if the sums are weighted", True),
        Variable("dense_class", ("dense_entry",), NONE, "noise class of each entry"),
        Variable("dense_column", ("dense_entry",), NONE, "column of each entry"),
        Variable("dense_gram", ("noise_class", "row", "column"), NONE, "products of dense columns"),
        Variable("eliminated_class", ("eliminated_entry",), NONE, "noise class of each entry"),
        Variable("eliminated_column", ("eliminated_entry",), NONE, "column of each entry"),
        Variable("eliminated_gram", ("eliminated_entry",), NONE, "sums of squares of eliminated columns"),
        Variable("cross_gram", ("eliminated_entry", "column"), NONE, "products of eliminated and dense columns"),
        Variable("coupled_class", ("coupled_entry",), NONE, "noise class of each entry of an intercept and its slope"),
        Variable("coupled_column", ("coupled_entry",), NONE, "eliminated column of the first of the two"),
        Variable("coupled_gram", ("coupled_entry",), NONE, "their products"),
        Variable("size", ("noise_class",), NONE, "scans"),
        Variable("scan_counts", ("count",), NONE, "counts of all scans"),
        Variable("scan_patterns", ("scan_pattern", "table_column"), NONE, "scans table: rows that differ for the model"),
        Variable("pattern_traveling", ("scan_pattern",), NONE, "whether the participant travels, if known", True),
    ),
    required=False,
)

GROUPS = (HYPER, SCALES, EFFECTS, FINITE_POPULATION, SIZE_DRAWS, ERROR_PATTERNS, DRAWS, SCAN_WEIGHTS, DESIGN,
          SUFFICIENT_STATISTICS)  # fmt: skip


def find_faults(tree: xr.DataTree) -> list[str]:
    """Name what a tree lacks of the declared groups, or has otherwise."""
    faults = []
    for group in GROUPS:
        nodes = list(_nodes(tree, group))
        if group.required and not nodes:
            faults.append(f"no {group.path}")
        for node in nodes:
            faults += group.find_faults(node.to_dataset())
    return faults


def _nodes(tree: xr.DataTree, group: Group) -> Iterable[xr.DataTree]:
    return (node for node in tree.subtree if group.matches(node.path.strip("/")))


def chunk_sizes(tree: xr.DataTree) -> dict[str, dict[str, Any]]:
    """Chunks of each array on disk, by path of the group: arrays over features are cut into `FEATURES_PER_FILE`."""
    return {
        node.path: {
            str(name): {"chunks": (*array.shape[:-1], min(array.shape[-1], FEATURES_PER_FILE))}
            for name, array in node.data_vars.items()
            if array.dims[-1:] == ("feature",)
        }
        for node in tree.subtree
    }


def features_of_file(file: str) -> slice | None:
    """Features whose values a file of the tree holds; None for a file that is not of an array over features.

    Parameters
    ----------
    file : str
        Below the tree, such as ``effects/measurement/mean/c/0/3``.
    """
    path, chunk, index = file.rpartition("/c/")  # a family may be named c
    group_path, _, name = path.rpartition("/")
    for group in GROUPS:
        for variable in group.variables:
            if chunk and group.matches(group_path) and variable.name == name and variable.dims[-1] == "feature":
                start = int(index.rpartition("/")[2]) * FEATURES_PER_FILE
                return slice(start, start + FEATURES_PER_FILE)
    return None
