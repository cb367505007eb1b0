"""A model from plain data: the rules that its values must meet."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import fields
from typing import Any, NamedTuple

from bayesharm.errors import ModelError
from bayesharm.model.spec import (
    BIAS_RATIOS,
    CROSSED,
    FEATURE_SCALINGS,
    GAINS,
    LEVELS,
    LIKELIHOODS,
    NOISE_RATIOS,
    PARTICIPANTS,
    TAKEN,
    Family,
    ModelSpec,
    Priors,
    is_group_name,
)


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
        for _, _, broken in broken_rules(spec):
            raise broken
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


def _one_of(field: str, values: Collection[str]) -> Rule:
    return Rule(field, lambda owner, _: getattr(owner, field) in values, f"one of {', '.join(values)}")


def _positive(field: str) -> Rule:
    return Rule(field, lambda owner, _: getattr(owner, field) > 0, "a number above 0")


MODEL_RULES = (
    _one_of("participants", PARTICIPANTS),
    _one_of("noise_ratio", NOISE_RATIOS),
    _one_of("bias_ratio", BIAS_RATIOS),
    _one_of("gain", GAINS),
    _one_of("feature_scaling", FEATURE_SCALINGS),
    _one_of("likelihood", LIKELIHOODS),
    _positive("noise_scale"),
    Rule("formula", lambda spec, _: isinstance(spec.formula, str), "text, such as bs(age, df=4) + sex"),
    Rule(
        "families", lambda spec, _: len(set(_names(spec))) == len(_names(spec)), "each name once, those of slopes included"
    ),
)
PRIOR_RULES = (
    *(_positive(field.name) for field in fields(Priors)),
    Rule("tail_share", lambda priors, _: priors.tail_share < 1, "a number below 1"),
)
FAMILY_RULES = (
    Rule("name", lambda family, _: is_group_name(family.name), "a name without slash"),
    Rule("name", lambda family, _: family.name not in TAKEN, f"another name than {', '.join(TAKEN)}: these have a meaning"),
    Rule(
        "by",
        lambda family, _: all(family.columns) if family.columns else family.by in LEVELS,
        f"one of {', '.join(LEVELS)}; or a column of the scans table, or several with a {CROSSED.strip()} between them",
    ),
    Rule(
        "name",
        lambda family, _: family.by in LEVELS or family.name not in LEVELS,
        f"for a family by a column, another name than {', '.join(LEVELS)}",
    ),
    Rule(
        "nested_in", lambda family, _: not (family.nested_in and family.by in LEVELS), "nested_in only with a column as by"
    ),
    Rule(
        "nested_in",
        lambda family, _: not (family.nested_in and family.component_of),
        "nested_in only in families that stand alone",
    ),
    Rule("nested_in", lambda family, _: len(set(family.columns)) == len(family.columns), "other columns than those of by"),
    Rule("slope", lambda family, _: not (family.slope and family.component_of), "no slope in a family with component_of"),
    Rule("slope", lambda family, _: not (family.slope and family.by == "population"), "no slope in a family by population"),
    Rule(
        "scaled_by_gain",
        lambda family, _: not family.scaled_by_gain or bool(family.columns and not family.component_of),
        "true only for families by a column that stand alone; others are scaled or not by what they are",
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
    _positive("slope_prior_median"),
    Rule("slope", lambda family, _: not family.slope or is_group_name(family.slope), "a column without slash in its name"),
    Rule("split", lambda family, _: not family.split or family.by == "population", "true only for populations"),
)
# These come last: they presuppose valid families.
REMOVED_EFFECT_RULES = (
    Rule(
        "removed_effect",
        lambda spec, _: _has_components(spec) or spec.removed_effect in _names_by_scanner(spec),
        'the name of a family by scanner, that is with by = "scanner"',
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


def _names(spec: ModelSpec) -> list[str]:
    return [family.name for family in spec.families] + [family.slope_name for family in spec.slopes]


def _has_components(spec: ModelSpec) -> bool:
    return any(family.component_of for family in spec.families)


def _names_by_scanner(spec: ModelSpec) -> list[str]:
    return [family.name for family in spec.families if family.by == "scanner"]


def broken_rules(spec: ModelSpec) -> Iterator[tuple[Any, str, ModelError]]:
    """Yield the model, its priors or a family; a field; and the error about it, for each rule that is broken."""
    checks: list[tuple[Any, str, tuple[Rule, ...]]] = [(spec, "", MODEL_RULES)]
    checks += [(family, f" of family {family.name!r}", FAMILY_RULES) for family in spec.families]
    checks += [(spec, "", REMOVED_EFFECT_RULES)]
    checks += [(spec.priors, " of priors", PRIOR_RULES)]
    for owner, place, rules in checks:
        for rule in rules:
            if not rule.is_met(owner, spec):
                yield (
                    owner,
                    rule.field,
                    ModelError(
                        f"The model {spec.name!r} is malformed: invalid {rule.field!r}{place}.",
                        got=_describe(getattr(owner, rule.field)),
                        expected=rule.expected,
                        do="correct its model.toml",
                    ),
                )


def _describe(value: object) -> str:
    """The value of a field; families by their names."""
    return ", ".join(repr(family.name) for family in value) if isinstance(value, tuple) else repr(value)
