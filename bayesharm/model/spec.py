"""The specification of a model: families of effects, their scales and priors, read from ``models/<name>/model.toml``.

Symbols (y, u, tau, sigma, lambda, kappa, eta, omega), their axes and units are defined in ``docs/notation.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from bayesharm.errors import ModelError

LEVELS = ("scanner", "population", "diagnosis", "participant")
PARTICIPANTS = ("all", "travelers")
RATIOS = ("homogeneous", "scanner")
FEATURE_SCALINGS = ("per_feature", "common")
# Names with another meaning in the tables and arrays of a run.
TAKEN = ("noise", "mean", "sd", "contraction", "covariate", "feature", "family", "chain", "draw", "scan", "column", "all")


@dataclass(frozen=True)
class Family:
    """Effects that share one scale per feature (with `split`, one for each diagnosis): ``u ~ Normal(0, tau²)``.

    Attributes
    ----------
    name : str
        The family's name in every table (`measurement`, `sampling`, `disorder`, `participant`, `site`).
    by : str
        The levels: `scanner`, `population` (site × diagnosis, of participants who did not travel), `diagnosis` or
        `participant`; or the name of a column that describes the scanners, a *protocol factor*.
    prior_median : float
        Prior median of the scale tau, as a share of the feature's standard deviation over scans.
    split : bool
        Only for `population`: whether each diagnosis has a scale of its own.
    component_of : str
        Name of the scanner effect to which this family adds, `measurement`; empty for a family that stands alone. Protocol
        factors are components, and so is the family by `scanner`, the remainder that they do not explain.
    """

    name: str
    by: str
    prior_median: float
    split: bool = False
    component_of: str = ""

    @property
    def is_factor(self) -> bool:
        """Whether the levels are those of a protocol factor."""
        return self.by not in LEVELS


@dataclass(frozen=True)
class Priors:
    """Hyperpriors; scales are in units of a feature's standard deviation over scans.

    ``log tau[c,f] ~ Normal(eta[c] + a[f], omega[c]²)``, ``eta[c] ~ Normal(log prior_median[c], eta_sd²)``,
    ``omega[c]² = omega_excess[c]² + omega_floor²``, ``omega_excess[c] ~ HalfNormal(omega_sd)``, for every family c and for
    the noise, whose sd sigma has the prior median `noise_scale`;
    mean and slopes of covariates are ``Normal(0, mean_sd²)`` and ``Normal(0, slope_sd²)`` (covariates standardized);
    ``log lambda ~ Normal(0, noise_ratio_sd²)`` and ``log kappa ~ Normal(0, bias_ratio_sd²)``, both centered over all
    scanners, those without a kappa of their own included.

    Differences between features below `omega_floor` are negligible, and the density near omega = 0 is a spike that no
    sampler enters.

    ``a[f] ~ Normal(0, feature_offset_sd²)`` is the random intercept of a feature's log scales. Each feature is divided by
    its own sd, an estimate that depends on the scales themselves: an error of the sd shifts all log-scales of a feature
    alike, and `a` absorbs it. Its prior is wide, so that only ratios between scales inform omega. It is 0 where all
    features are divided by one common sd.
    """

    eta_sd: float = 1.0
    omega_sd: float = 0.5
    omega_floor: float = 0.05
    feature_offset_sd: float = 2.0
    mean_sd: float = 10.0
    slope_sd: float = 3.0
    noise_ratio_sd: float = 0.5
    bias_ratio_sd: float = 0.5


@dataclass(frozen=True)
class ModelSpec:
    """A model as data.

    Attributes
    ----------
    name, title : str
    participants : {'all', 'travelers'}
        Participants in the model.
    requires_travelers : bool
        Whether the model needs at least one participant on two or more scanners.
    families : tuple of Family
    removed_effect : str
        The effect that :func:`bayesharm.harmonize` removes: a family by scanner, or the sum of its components
        (`Family.component_of`).
    noise_ratio : {'scanner', 'homogeneous'}
        Whether each scanner has a noise variance ratio lambda, shared by all features.
    bias_ratio : {'scanner', 'homogeneous'}
        Whether each scanner has a bias variance ratio kappa, shared by all features: the biases of some scanners are larger.
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
    noise_scale: float = 0.8
    reference: str = "HC"
    covariates: tuple[str, ...] = ()
    formula: str = ""
    feature_scaling: str = "per_feature"
    priors: Priors = Priors()

    @property
    def feature_offset_sd(self) -> float:
        """Prior sd of a[f], the random intercept of a feature's log scales; 0 with `feature_scaling` `common`."""
        return self.priors.feature_offset_sd if self.feature_scaling == "per_feature" else 0.0

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the families whose sum is the scanner effect: several only with protocol factors."""
        return tuple(f.name for f in self.families if f.component_of) or (self.removed_effect,)

    @property
    def factors(self) -> tuple[Family, ...]:
        """The protocol factors among the families."""
        return tuple(family for family in self.families if family.is_factor)

    def dimension_of(self, name: str) -> str:
        """Return the dimension of a term's levels: what the family is by; for other terms and protocol factors the name."""
        return next((family.by for family in self.families if family.name == name and not family.is_factor), name)

    def to_dict(self) -> dict[str, Any]:
        """Return a plain nested dictionary, as written into ``run.json``; :func:`spec_from_dict` is its inverse."""
        return asdict(self)


def spec_from_dict(table: Mapping[str, Any]) -> ModelSpec:
    """Build and validate a :class:`ModelSpec` from plain data.

    Raises
    ------
    ModelError
        An unknown or missing key, or an invalid value.
    """
    table = dict(table)
    try:
        families = tuple(Family(**family) for family in table.pop("families"))
        priors = Priors(**table.pop("priors", {}))
        covariates = tuple(table.pop("covariates", ()))
        spec = ModelSpec(families=families, priors=priors, covariates=covariates, **table)
        _validate(spec)
    except (KeyError, TypeError) as error:
        raise ModelError(
            f"The model {table.get('name', '')!r} is malformed.",
            got=str(error),
            expected=f"the keys {', '.join(ModelSpec.__dataclass_fields__)}; for each family "
            f"{', '.join(Family.__dataclass_fields__)}; for priors {', '.join(Priors.__dataclass_fields__)}",
            do="compare model.toml with models/traveling_and_cohort/model.toml",
        ) from None
    return spec


class Rule(NamedTuple):
    """A condition on one field of a model, of its priors, or of a family, and the values that meet it.

    Attributes
    ----------
    field : str
    is_met : callable
        Receives the model, its priors or a family; and the model.
    expected : str
    """

    field: str
    is_met: Callable[[Any, ModelSpec], bool]
    expected: str


def is_group_name(name: str) -> bool:
    """Whether effects can be stored under a name: an xarray group, whose path ends at a slash and has ``.`` and ``..``."""
    return isinstance(name, str) and bool(name.strip(".")) and "/" not in name


def _one_of(field: str, values: Collection[str]) -> Rule:
    return Rule(field, lambda owner, _: getattr(owner, field) in values, f"one of {', '.join(values)}")


def _positive(field: str) -> Rule:
    return Rule(field, lambda owner, _: getattr(owner, field) > 0, "a number above 0")


MODEL_RULES = (
    _one_of("participants", PARTICIPANTS),
    _one_of("noise_ratio", RATIOS),
    _one_of("bias_ratio", RATIOS),
    _one_of("feature_scaling", FEATURE_SCALINGS),
    _positive("noise_scale"),
    Rule("formula", lambda spec, _: isinstance(spec.formula, str), "text, such as bs(age, df=4) + sex"),
    Rule("families", lambda spec, _: len({f.name for f in spec.families}) == len(spec.families), "each name once"),
)
FAMILY_RULES = (
    Rule("name", lambda family, _: is_group_name(family.name), "a name without slash"),
    Rule("name", lambda family, _: family.name not in TAKEN, f"another name than {', '.join(TAKEN)}: these have a meaning"),
    Rule(
        "by",
        lambda family, _: not family.is_factor or bool(family.component_of),
        f"one of {', '.join(LEVELS)}; or a protocol column, together with component_of",
    ),
    Rule(
        "name",
        lambda family, _: not family.is_factor or family.name not in LEVELS,
        f"for a protocol factor, another name than {', '.join(LEVELS)}",
    ),
    Rule(
        "component_of",
        lambda family, spec: not family.component_of or family.component_of == spec.removed_effect,
        "the removed_effect of the model",
    ),
    Rule(
        "component_of",
        lambda family, _: not family.component_of or family.is_factor or family.by == "scanner",
        "component_of only in families by scanner or by a protocol column",
    ),
    _positive("prior_median"),
    Rule("split", lambda family, _: not family.split or family.by == "population", "true only for populations"),
)
# These come last: they presuppose valid families.
REMOVED_EFFECT_RULES = (
    Rule(
        "removed_effect",
        lambda spec, _: _has_components(spec) or spec.removed_effect in _names_by_scanner(spec),
        "the name of a family by scanner",
    ),
    Rule(
        "removed_effect",
        lambda spec, _: not _has_components(spec) or spec.removed_effect not in {f.name for f in spec.families},
        "a name that no family has: it is the sum of the components",
    ),
    Rule(
        "families",
        lambda spec, _: not _has_components(spec) or sum(f.by == "scanner" for f in spec.families if f.component_of) == 1,
        "one component by scanner: the remainder that protocol factors do not explain",
    ),
)


def _has_components(spec: ModelSpec) -> bool:
    return any(family.component_of for family in spec.families)


def _names_by_scanner(spec: ModelSpec) -> list[str]:
    return [family.name for family in spec.families if family.by == "scanner"]


def _validate(spec: ModelSpec) -> None:
    """Raise a `ModelError` for the first rule that the model breaks."""
    checks: list[tuple[Any, str, tuple[Rule, ...]]] = [(spec, "", MODEL_RULES)]
    checks += [(family, f" of family {family.name!r}", FAMILY_RULES) for family in spec.families]
    checks += [(spec, "", REMOVED_EFFECT_RULES)]
    checks += [(spec.priors, " of priors", tuple(_positive(field.name) for field in fields(Priors)))]
    for owner, place, rules in checks:
        for rule in rules:
            if not rule.is_met(owner, spec):
                raise ModelError(
                    f"The model {spec.name!r} is malformed: invalid {rule.field!r}{place}.",
                    got=_describe(getattr(owner, rule.field)),
                    expected=rule.expected,
                    do="correct its model.toml",
                )


def _describe(value: object) -> str:
    """The value of a field; families by their names."""
    return ", ".join(repr(family.name) for family in value) if isinstance(value, tuple) else repr(value)
