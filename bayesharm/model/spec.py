"""What a model is: families of effects, their scales and priors, read from ``models/<name>/model.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bayesharm.errors import ModelError

LEVELS = ("scanner", "population", "diagnosis", "participant")
PARTICIPANTS = ("all", "travelers")
RATIOS = ("homogeneous", "scanner")
FEATURE_SCALINGS = ("per_feature", "common")
# Names that tables and arrays of a run have for other things than families.
TAKEN = ("noise", "mean", "sd", "contraction", "covariate", "feature", "family", "chain", "draw", "scan", "column")


@dataclass(frozen=True)
class Family:
    """Effects that share one scale per feature: ``effect ~ Normal(0, tau²)``.

    Attributes
    ----------
    name : str
        The family's name in every table (`measurement`, `sampling`, `disorder`, `participant`, `site`).
    grouping : str
        What its levels are: `scanner`, `population` (site × diagnosis), `diagnosis` or `participant`; or the name of a
        column that describes the scanners, a *protocol factor*.
    prior_median : float
        Prior median of the scale, as a share of the feature's standard deviation over scans.
    split : bool
        Only for `population`: one family, with a scale of its own, for each diagnosis.
    component_of : str
        What the effects of this family and of others add up to for each scanner, `measurement`; empty for a family that
        stands alone. Protocol factors are parts, and so is what is left of the scanner, the family by `scanner`.
    """

    name: str
    grouping: str
    prior_median: float
    split: bool = False
    component_of: str = ""

    @property
    def is_factor(self) -> bool:
        """Whether its levels are those of a protocol factor."""
        return self.grouping not in LEVELS


@dataclass(frozen=True)
class Priors:
    """Hyperpriors; scales are in units of a feature's standard deviation over scans.

    ``log tau[c,f] ~ Normal(eta[c] + a[f], omega[c]²)``, ``eta[c] ~ Normal(log scale[c], eta_sd²)``,
    ``omega[c]² = excess[c]² + least_omega²``, ``excess[c] ~ HalfNormal(omega_sd)``;
    mean and slopes of covariates are ``Normal(0, mean_sd²)`` and ``Normal(0, slope_sd²)`` (covariates standardized);
    ``log lambda ~ Normal(0, noise_ratio_sd²)``, centered, and ``log kappa ~ Normal(0, bias_ratio_sd²)``, centered.

    Features that differ by less than `omega_floor` are as good as equal; an omega near 0 is a spike that no sampler enters.

    ``a[f] ~ Normal(0, amplitude_sd²)`` is what all scales of a feature have in common. It makes up for dividing each
    feature by its own sd, which is an estimate and holds the very scales, and is wide, so that the ratios of scales alone
    inform omega; where features share one unit it is 0.
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
        Whose scans the model uses.
    requires_travelers : bool
        Whether the model makes sense only where somebody was scanned on two or more scanners.
    families : tuple of Family
    noise_ratio : {'scanner', 'homogeneous'}
        Whether each scanner has a noise variance ratio lambda, shared by all features.
    bias_ratio : {'scanner', 'homogeneous'}
        Whether the biases of each scanner have a variance ratio kappa, shared by all features: some scanners are further
        from the others than others are.
    noise_scale : float
        Prior median of the noise sd, as a share of the feature's sd.
    removed_effect : str
        What :func:`bayesharm.harmonize` takes out: a family by scanner, or what protocol factors are `component_of`.
    reference : str
        The diagnosis that disorder effects are measured against.
    covariates : tuple of str
        Columns of the scans table with a linear effect on every feature.
    feature_scaling : {'per_feature', 'common'}
        What the scales of features are compared in: each feature's own sd (any measures together), or one unit
        for all (features of one kind, such as the edges of a connectome).
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
    feature_scaling: str = "per_feature"
    priors: Priors = Priors()

    @property
    def feature_offset_sd(self) -> float:
        """Prior sd of what the log scales of a feature have in common: 0 where features share one unit."""
        return self.priors.feature_offset_sd if self.feature_scaling == "per_feature" else 0.0

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the families that add up to the effect of a scanner: several where there are protocol factors."""
        return tuple(f.name for f in self.families if f.component_of) or (self.removed_effect,)

    @property
    def factors(self) -> tuple[Family, ...]:
        """The protocol factors among the families."""
        return tuple(family for family in self.families if family.is_factor)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionary, as written into ``run.json``; :func:`spec_from_dict` is its inverse."""
        return asdict(self)


def spec_from_dict(table: Mapping[str, Any]) -> ModelSpec:
    """Build and validate a :class:`ModelSpec` from plain data.

    Raises
    ------
    ModelError
        An unknown or missing key, or a value outside what the package knows.
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


def _validate(spec: ModelSpec) -> None:
    def check(fine: bool, what: str, got: object, expected: str) -> None:
        if not fine:
            raise ModelError(
                f"The model {spec.name!r} is malformed: {what}.",
                got=repr(got),
                expected=expected,
                do="correct its model.toml",
            )

    check(
        spec.participants in PARTICIPANTS, "unknown 'participants'", spec.participants, f"one of {', '.join(PARTICIPANTS)}"
    )
    check(
        spec.noise_ratio in RATIOS,
        "unknown 'noise_ratio'",
        spec.noise_ratio,
        f"one of {', '.join(RATIOS)}",
    )
    check(
        spec.bias_ratio in RATIOS,
        "unknown 'bias_ratio'",
        spec.bias_ratio,
        f"one of {', '.join(RATIOS)}",
    )
    names = [family.name for family in spec.families]
    check(len(set(names)) == len(names), "a family name is used twice", names, "unique names")
    for name in names:
        check(name not in TAKEN, f"a family is called {name!r}", names, "another name; this one stands for something else")
        fine = bool(name) and not set(name) & set(":/")
        check(fine, "a family has an impossible name", name, "a name without colon and slash")
    for family in spec.families:
        check(
            not family.is_factor or bool(family.component_of),
            f"family {family.name!r} has unknown levels",
            family.grouping,
            f"one of {', '.join(LEVELS)}, or a protocol column together with part_of = {spec.removed_effect!r}",
        )
        check(
            not family.component_of
            or (family.component_of == spec.removed_effect and (family.is_factor or family.grouping == "scanner")),
            f"family {family.name!r} cannot be a part",
            f"by {family.grouping!r}, part_of {family.component_of!r}",
            "part_of what the model removes, by scanner or by a protocol column",
        )
        check(
            not family.is_factor or family.name not in LEVELS,
            f"the protocol factor {family.name!r} has the name of something else",
            family.name,
            "another name",
        )
        check(
            family.prior_median > 0,
            f"family {family.name!r} has an impossible scale",
            family.prior_median,
            "a number above 0",
        )
        check(
            not family.split or family.grouping == "population",
            f"family {family.name!r} cannot be split",
            family.grouping,
            "split = true only with by = 'population'",
        )
    by_scanner = [family.name for family in spec.families if family.grouping == "scanner"]
    if any(family.component_of for family in spec.families):
        check(
            spec.removed_effect not in names,
            "what parts add up to is a family itself",
            spec.removed_effect,
            "a name of its own",
        )
        left = [family.name for family in spec.families if family.component_of and family.grouping == "scanner"]
        check(len(left) == 1, "not one family by scanner among the parts", left, "one, for what is left of the scanner")
    else:
        check(
            spec.removed_effect in by_scanner,
            "'removed_effect' is not a family by scanner",
            spec.removed_effect,
            f"one of {', '.join(by_scanner)}",
        )
    scales = {"noise_scale": spec.noise_scale, **asdict(spec.priors)}
    for name, value in scales.items():
        check(value > 0, f"impossible {name!r}", value, "a number above 0")
