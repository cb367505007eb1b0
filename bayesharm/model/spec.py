"""The specification of a model: families of effects, their scales and priors, read from ``models/<name>/model.toml``.

Symbols (y, u, tau, sigma, lambda, kappa, eta, omega), their axes and units are defined in ``docs/reference/notation.md``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

LEVELS = ("scanner", "population", "diagnosis", "participant")
PARTICIPANTS = ("all", "travelers")
NOISE_RATIOS = ("homogeneous", "scanner", "scanner-feature")
BIAS_RATIOS = ("homogeneous", "scanner")
GAINS = ("none", "scanner")
CROSSED = " × "  # between the columns of a family by several of them
FEATURE_SCALINGS = ("per_feature", "common")
LIKELIHOODS = ("gaussian", "student-t")
# Names with another meaning in the tables and arrays of a run.
TAKEN = (
    "noise", "noise_ratio", "mean", "sd", "contraction", "covariate", "feature", "family", "chain", "draw", "scan", "column",
    "all",
)  # fmt: skip


@dataclass(frozen=True)
class Family:
    """Effects that share one scale per feature (with `split`, one for each diagnosis): ``u ~ Normal(0, tau²)``.

    Attributes
    ----------
    name : str
        The family's name in every table (`measurement`, `sampling`, `disorder`, `participant`, `site`).
    by : str
        The levels: `scanner`, `population` (site × diagnosis, of participants of one site), `diagnosis` or
        `participant`; or a column of the scans table, such as `family_id`; or several, crossed: ``scanner × year``. A column
        with `component_of` is a *protocol factor*, which describes the scanners.
    prior_median : float
        Prior median of the scale tau, as a share of the feature's standard deviation over scans.
    split : bool
        Only for `population`: whether each diagnosis has a scale of its own.
    component_of : str
        Name of the scanner effect to which this family adds, `measurement`; empty for a family that stands alone. Protocol
        factors are components, and so is the family by `scanner`, the remainder that they do not explain.
    nested_in : str
        A column, or several, within whose levels those of `by` count as different: coil 1 of site A and coil 1 of site B.
    slope : str
        A numeric column of the scans table, on which the effect depends: each level has an intercept and a slope. Slopes by
        participant count from the participant's first scan, all others from the mean of the column. Not in families by
        `population`, nor in families with `component_of`.
    slope_prior_median : float
        Prior median of the scale of the slopes, for one standard deviation of the column.
    scaled_by_gain : bool
        For a family by a column: whether its effects are differences between people, which the gain of a scanner multiplies
        as it does those of participants, populations, diagnoses and covariates. `match_noise` counts their variance.
    """

    name: str
    by: str
    prior_median: float
    split: bool = False
    component_of: str = ""
    nested_in: str = ""
    slope: str = ""
    slope_prior_median: float = 0.15
    scaled_by_gain: bool = False

    @property
    def is_factor(self) -> bool:
        """Whether the levels are those of a protocol factor."""
        return self.by not in LEVELS and bool(self.component_of)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the scans table whose combinations are the levels; empty for the four special groupings."""
        if self.by in LEVELS:
            return ()
        parts = [part.strip() for name in (self.nested_in, self.by) if name for part in name.split(CROSSED.strip())]
        return tuple("participant_id" if part == "participant" else part for part in parts)

    @property
    def has_gain(self) -> bool:
        """Whether the gain of a scanner multiplies the effects."""
        return self.scaled_by_gain or self.by in ("population", "diagnosis", "participant")

    @property
    def slope_name(self) -> str:
        """Name of the slopes in every table: ``participant_time``."""
        return f"{self.name}_{self.slope}"


@dataclass(frozen=True)
class Priors:
    """Hyperpriors; scales are in units of a feature's standard deviation over scans.

    ``log tau[c,f] ~ Normal(eta[c] + a[f], omega[c]²)``, ``eta[c] ~ Normal(log prior_median[c], eta_sd²)``,
    ``omega[c]² = omega_excess[c]² + omega_floor²``, ``omega_excess[c] ~ HalfNormal(omega_sd)``, for every family c and for
    the noise, whose sd sigma has the prior median `noise_scale`;
    mean and slopes of covariates are ``Normal(0, mean_sd²)`` and ``Normal(0, slope_sd²)``, covariates divided by the sd of
    the part that the other covariates do not explain;
    ``log lambda ~ Normal(0, noise_ratio_sd²)``, ``log kappa ~ Normal(0, bias_ratio_sd²)`` and
    ``log g ~ Normal(0, gain_sd²)``, each centered over all scanners, those without a kappa or gain of their own included;
    ``atanh rho ~ Normal(0, correlation_sd²)`` for the correlation rho of intercepts and slopes.

    Differences between features below `omega_floor` are negligible, and the density near omega = 0 is a spike that no
    sampler enters.

    ``a[f] ~ Normal(0, feature_offset_sd²)`` is the random intercept of a feature's log scales. Each feature is divided by
    its own sd, an estimate that depends on the scales themselves: an error of the sd shifts all log-scales of a feature
    alike, and `a` absorbs it. Its prior is wide, so that only ratios between scales inform omega. It is 0 where all
    features are divided by one common sd.

    With `likelihood` `student-t`, a share of the values has Student-t noise: ``share ~ Beta(1, 1 / tail_share − 1)`` and
    ``1 / df ~ Uniform(0, 1)``.

    Attributes
    ----------
    eta_sd : float
        Prior sd of eta, the mean over features of the log-scales of a family.
    omega_sd : float
        Scale of the half-normal prior of omega, the sd over features of these log-scales.
    omega_floor : float
        Smallest omega.
    feature_offset_sd : float
        Prior sd of the offset of a feature that all its log-scales share; only with `feature_scaling` `per_feature`.
    mean_sd : float
        Prior sd of the mean of a feature.
    slope_sd : float
        Prior sd of the slopes of covariates, per sd of the part that the other covariates do not explain.
    noise_ratio_sd : float
        Prior sd of the log noise variance ratio of a scanner.
    bias_ratio_sd : float
        Prior sd of the log bias variance ratio of a scanner.
    gain_sd : float
        Prior sd of the log gain of a scanner.
    correlation_sd : float
        Prior sd of atanh of the correlation of intercepts and slopes.
    tail_share : float
        Prior mean of the share of the values with Student-t noise.
    """

    eta_sd: float = 1.0
    omega_sd: float = 0.5
    omega_floor: float = 0.05
    feature_offset_sd: float = 2.0
    mean_sd: float = 10.0
    slope_sd: float = 3.0
    noise_ratio_sd: float = 0.5
    bias_ratio_sd: float = 0.5
    gain_sd: float = 0.2
    correlation_sd: float = 0.5
    tail_share: float = 0.1


@dataclass(frozen=True)
class ModelSpec:
    """A model as data.

    Attributes
    ----------
    name : str
        Name of the model, and of its folder.
    title : str
        What the model is for, in one line.
    participants : {'all', 'travelers'}
        Participants in the model.
    requires_travelers : bool
        Whether the model needs at least one participant on two or more scanners.
    families : tuple of Family
    removed_effect : str
        The effect that :func:`bayesharm.harmonize` removes: a family by scanner, or the sum of its components
        (`Family.component_of`).
    noise_ratio : {'scanner', 'homogeneous', 'scanner-feature'}
        Whether each scanner has a noise variance ratio lambda, shared by all features, or around it one for each feature.
    bias_ratio : {'scanner', 'homogeneous'}
        Whether each scanner has a bias variance ratio kappa, shared by all features: the biases of some scanners are larger.
    gain : {'none', 'scanner'}
        Whether each scanner has a gain g, shared by all features: it multiplies differences between people.
    noise_weight : str
        Column of the scans table with the relative noise variance of each scan, such as one over the number of volumes.
    noise_scale : float
        Prior median of the noise sd sigma, as a share of the feature's sd.
    reference : str
        Reference diagnosis of the disorder effects.
    covariates : tuple of str
        Columns of the scans table with a linear effect on every feature.
    formula : str
        More covariates by a one-sided formula of columns of the scans table, such as ``bs(age, df=4) + sex + age:sex``.
    feature_scaling : {'per_feature', 'common'}
        Unit in which the scales of features are compared: each feature's own sd (any mixture of measures), or one common sd
        (features of one kind, such as the edges of a connectome).
    likelihood : {'gaussian', 'student-t'}
        Distribution of the noise: Gaussian, or with heavy tails, so that single bad scans or values hardly matter.
    priors : Priors
    """

    name: str
    title: str
    participants: str
    requires_travelers: bool
    families: tuple[Family, ...]
    removed_effect: str
    noise_ratio: str = "scanner"
    bias_ratio: str = "scanner"
    gain: str = "none"
    noise_weight: str = ""
    noise_scale: float = 0.8
    reference: str = "HC"
    covariates: tuple[str, ...] = ()
    formula: str = ""
    feature_scaling: str = "per_feature"
    likelihood: str = "gaussian"
    priors: Priors = Priors()

    @property
    def feature_offset_sd(self) -> float:
        """Prior sd of a[f], the random intercept of a feature's log scales; 0 with `feature_scaling` `common`."""
        return self.priors.feature_offset_sd if self.feature_scaling == "per_feature" else 0.0

    @property
    def has_tails(self) -> bool:
        """Whether the noise has heavy tails."""
        return self.likelihood == "student-t"

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the families whose sum is the scanner effect: several only with protocol factors."""
        return tuple(f.name for f in self.families if f.component_of) or (self.removed_effect,)

    @property
    def factors(self) -> tuple[Family, ...]:
        """The protocol factors among the families."""
        return tuple(family for family in self.families if family.is_factor)

    @property
    def slopes(self) -> tuple[Family, ...]:
        """The families whose effects depend on a column."""
        return tuple(family for family in self.families if family.slope)

    def dimension_of(self, name: str) -> str:
        """Return the dimension of a term's levels: what the family is by; for terms by columns, and others, the name."""
        family = next((each for each in self.families if name in (each.name, each.slope_name)), None)
        return name if family is None else family.by if family.by in LEVELS else family.name

    def to_dict(self) -> dict[str, Any]:
        """Return a plain nested dictionary, as written into ``run.json``; ``spec_from_dict`` is its inverse."""
        return asdict(self)


def is_group_name(name: str) -> bool:
    """Whether effects can be stored under a name: an xarray group, whose path ends at a slash and has ``.`` and ``..``."""
    return isinstance(name, str) and bool(name.strip(".")) and "/" not in name
