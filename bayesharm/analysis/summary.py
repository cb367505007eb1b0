"""The tables that a person reads first: how large each source of differences is, and what to trust."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bayesharm.errors import shorten
from bayesharm.results.console import SOURCE_DESCRIPTIONS, as_text, bullets, format_with_interval, make_table
from bayesharm.results.posterior import REASONS, Posterior
from bayesharm.results.tables import Tables

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


def render(summary: Summary) -> Group:
    """The summary for a terminal or a text file, for 80 columns or more."""
    from rich.console import Group
    from rich.text import Text

    about = summary.about
    counts = (
        f"{about['n_scans']:,} scans, {about['n_scanners']} scanners, {about['n_features']:,} features, seed {about['seed']}"
    )
    head = Text.assemble((f"Model {about['model']}", "bold"), f"\n{about['title']}\n{counts}\n")
    return Group(
        head,
        sources_table(summary),
        hyper_table(summary),
        scanners_table(summary),
        bullets("Convergence", summary.verdicts),
        bullets("Beware", summary.notes),
    )


def sources_table(summary: Summary) -> Table:
    """Size of each source of differences; in units only if the features may share one."""
    mixed = summary.sources["rms"].isna().all()
    table = make_table(
        "Size of each source of differences between scans",
        f"Root mean square over levels and features, what is uncertain of them included. {_unit(summary)}"
        + ("" if mixed else " Units: the features' own."),
        ["source", "in sd", *([] if mixed else ["in units"]), "what it is"],
    )
    for source, row in summary.sources.sort_values("rms_in_sd", ascending=False).iterrows():
        in_units = [] if mixed else [f"{row.rms:.4g}"]
        other = "part of measurement" if source in summary.about["parts"] else ""
        table.add_row(str(source), f"{row.rms_in_sd:.3f}", *in_units, SOURCE_DESCRIPTIONS.get(str(source), other))
    return table


def _unit(summary: Summary) -> str:
    return {
        "per_feature": "Sd: of each feature over the scans.",
        "common": "Sd: one for all features, root mean square of theirs over the scans.",
    }[summary.about["feature_scaling"]]


def hyper_table(summary: Summary) -> Table:
    """Hyperparameters with their intervals."""
    apart = ", what all scales of a feature share apart" if summary.about["feature_scaling"] == "per_feature" else ""
    table = make_table(
        "Scales over all features, with 90% intervals",
        f"Typical: exp(eta), in sd. Spread: omega, how much the log scale differs between features{apart}. {_unit(summary)}",
        ["family", "typical", "90% interval", "spread", "90% interval"],
    )
    for family, row in summary.hyper.iterrows():
        cells = [cell for name in ("scale", "spread") for cell in format_with_interval(row, name)]
        table.add_row(str(family), *cells)
    return table


def scanners_table(summary: Summary, most: int = 20) -> Table:
    """Scanners, those with the largest bias first."""
    some = summary.scanners.head(most)
    sized = ["prior size"] if (some["bias_ratio_q05"] < some["bias_ratio_q95"]).any() else []  # else it is 1
    title = "Scanners, largest bias first"
    if len(some) < len(summary.scanners):
        title += f" ({len(some)} of {len(summary.scanners)}; all of them: bayesharm summary RUN --out FOLDER)"
    table = make_table(
        title,
        "Bias (posterior mean) and its posterior sd: root mean square over features, in sd. Noise: "
        "variance against the average scanner."
        + (" Prior size: the same of the variance from which its biases are. " if sized else " ")
        + f"From data: share of what is known about the bias that comes from the data, not the prior. {_unit(summary)}",
        ["scanner", "bias", "± sd", "noise", "90% interval", *sized, "from data"],
    )
    for scanner, row in some.iterrows():
        share = "" if np.isnan(row.from_data) else f"{row.from_data:.0%}"
        noise, size = format_with_interval(row, "noise_ratio", 2), [f"{row.bias_ratio:.2f}"] if sized else []
        table.add_row(str(scanner), f"{row.bias:.3f}", f"{row.uncertainty:.3f}", *noise, *size, share)
    return table


INTERVAL = (0.05, 0.5, 0.95)
MANY = 0.05  # so many features with such weights are worth a sentence

# Of the hyperparameters; for features the verdict is stored. R-hat of some twenty numbers, the worst of which counts,
# is noisy: 1.02 here is as strict as 1.01 for one.
MAX_RHAT, MIN_ESS, MOST_DIVERGENT = 1.02, 400, 0.01
GO_TOGETHER = 0.9  # of their number that features count for, below which it is said
MOST_WAITING = 1.5  # times the leapfrog steps of the mean lane that the slowest may take


@dataclass(frozen=True, eq=False)
class Summary(Tables):
    """A posterior in a few tables. Intervals are 90%: columns `…_q05` and `…_q95`.

    Attributes
    ----------
    about : dict
        Model, title, numbers of scans, scanners and features, seed, `parts` of measurement bias that have effects of their
        own, and `feature_scaling`: whether "standard deviations" below
        are those of each feature (`per_feature`) or their root mean square (`common`).
    sources : DataFrame by source
        Root mean square of the effects over levels and features: `rms` in the features' units (missing where these
        differ by more than a hundredfold), `rms_in_sd` in standard deviations of a feature. That of `noise` is its sd.
    hyper : DataFrame by family
        `scale` (exp(eta): the typical scale, in standard deviations of a feature) and `spread` (omega: how
        much the log scales differ between features), with intervals; the worse `rhat` and `ess` of the two.
    scanners : DataFrame by scanner
        `bias`: rms over features of the effect that would be removed; `uncertainty`: rms of its posterior sd
        (both in standard deviations of a feature); `noise_ratio` and `bias_ratio`, of variances of noise and of biases
        against the average scanner, with intervals; `from_data`: share of what is known about the effect that comes from
        the data, not from the prior. Largest bias first.
    features : DataFrame by feature
        `converged`, `reason` (why it is marked), worst `rhat` and `ess_bulk`, `divergences`, `khat` (of the Laplace
        approximation), and the posterior mean of each scale in the feature's units.
    verdicts : tuple of str
        Sentences on convergence.
    notes : tuple of str
        Sentences on what the study identifies, and on what was left out.
    """

    about: dict[str, Any]
    sources: pd.DataFrame
    hyper: pd.DataFrame
    scanners: pd.DataFrame
    features: pd.DataFrame
    verdicts: tuple[str, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return as_text(self)

    def __rich__(self) -> Group:
        return render(self)


def summarize(posterior: Posterior) -> Summary:
    """Put a posterior into a few tables and plain sentences.

    Parameters
    ----------
    posterior : Posterior

    Returns
    -------
    Summary
        Prints as text; its attributes are tables.
    """
    run, spec = posterior.run, posterior.spec
    hyper, features = _hyper(posterior), _features(posterior)
    about = {
        "model": spec.name,
        "title": spec.title,
        "n_scans": run["n_scans"],
        "n_scanners": len(posterior.scanners),
        "n_features": len(features),
        "feature_scaling": spec.feature_scaling,
        "parts": spec.components if len(spec.components) > 1 else (),
        "seed": run["seed"],
        "preview": bool(posterior.preview_notice),
    }
    draws = posterior.tree["hyper"].to_dataset()
    divergent = draws.attrs["divergences"] / (draws.sizes["chain"] * draws.sizes["draw"])
    return Summary(
        about=about,
        sources=_sources(posterior),
        hyper=hyper,
        scanners=_scanners(posterior),
        features=features,
        verdicts=(
            (posterior.preview_notice, *_on_approximation(features), *_on_together(draws.attrs))
            if posterior.preview_notice
            else (
                *_verdicts(hyper, features, divergent, draws.attrs),
                *_on_teachers(draws.attrs["features"], min(len(features), run["settings"].get("hyper_features", 0))),
                *_on_together(draws.attrs),
                *_on_waiting(run["leapfrog"]),
            )
        ),
        notes=(*run["notes"], *_on_dropped(run["dropped"])),
    )


def _sources(posterior: Posterior) -> pd.DataFrame:
    scales = posterior.tree["scales"].to_dataset()
    unit = scales["unit"].values
    rows = {}
    for name in posterior.tree["effects"].children:
        if name != "covariate":  # slopes, whose size depends on the unit of the covariate
            effect = posterior.effect(name)
            rows[name] = effect["mean"].values ** 2 + effect["sd"].values ** 2
    noise = scales.sel(family="noise")
    rows["noise"] = (noise["mean"].values ** 2 + noise["sd"].values ** 2)[None]
    alike = posterior.is_single_modality
    rms = {name: np.sqrt(np.nanmean(square)) if alike else np.nan for name, square in rows.items()}
    rms_in_sd = {name: np.sqrt(np.nanmean(square / unit**2)) for name, square in rows.items()}
    return pd.DataFrame({"rms": rms, "rms_in_sd": rms_in_sd}).rename_axis("source")


def _hyper(posterior: Posterior) -> pd.DataFrame:
    from arviz_stats.base import array_stats

    hyper = posterior.tree["hyper"].to_dataset()
    rows = []
    for k, family in enumerate(hyper["family"].values):
        row: dict[str, Any] = {"family": str(family)}
        rhat, ess = [], []
        eta, omega = hyper["eta"].values[..., k], hyper["omega"].values[..., k]
        for name, draws in (("scale", np.exp(eta)), ("spread", omega)):
            low, middle, high = np.quantile(draws, INTERVAL)
            row |= {name: middle, f"{name}_q05": low, f"{name}_q95": high}
            rhat.append(float(array_stats.rhat(draws, chain_axis=0, draw_axis=1)))
            ess.append(float(array_stats.ess(draws, chain_axis=0, draw_axis=1)))
        sampled = {"rhat": max(rhat), "ess": min(ess)}
        rows.append(row | (dict.fromkeys(sampled, np.nan) if posterior.preview_notice else sampled))
    return pd.DataFrame(rows).set_index("family")


def _scanners(posterior: Posterior) -> pd.DataFrame:
    effect = posterior.effect(posterior.spec.removed_effect)
    unit = posterior.tree["scales"].to_dataset()["unit"].values
    table = pd.DataFrame(index=pd.Index(posterior.scanners, name="scanner"))
    for name, source in (("bias", "mean"), ("uncertainty", "sd")):
        table[name] = np.sqrt(np.nanmean((effect[source].values / unit) ** 2, axis=1))
    for name in ("noise_ratio", "bias_ratio"):
        ratio = posterior.tree["hyper"].to_dataset()[name].values.reshape(-1, len(table))
        table[f"{name}_q05"], table[name], table[f"{name}_q95"] = np.quantile(ratio, INTERVAL, axis=0)
    table["from_data"] = effect["contraction"].values
    return table.sort_values("bias", ascending=False, kind="stable")


def _features(posterior: Posterior) -> pd.DataFrame:
    scales = posterior.tree["scales"].to_dataset()
    table = pd.DataFrame(index=pd.Index(posterior.features, name="feature"))
    table["converged"] = scales["converged"].values.astype(bool)
    table["reason"] = np.array(REASONS, dtype=object)[scales["reason"].values]
    table["rhat"] = scales["rhat"].max("family").values
    table["ess_bulk"] = scales["ess_bulk"].min("family").values
    for name in ("divergences", "khat"):
        table[name] = scales[name].values
    for k, family in enumerate(scales["family"].values):
        table[f"scale_{family}"] = scales["mean"].values[k]
    return table


def _verdicts(hyper: pd.DataFrame, features: pd.DataFrame, divergent: float, attrs: Mapping[str, float]) -> list[str]:
    failed = features.index[~features["converged"]]
    if len(failed):
        sentences = [
            f"{len(failed):,} of {len(features):,} features have NOT converged, after further tries "
            f"with more draws ({_counted(features.loc[failed, 'reason'])}). Do not rely on them: {shorten(failed)}."
        ]
    else:
        sentences = [f"All {len(features):,} features have converged."]
    rhat, ess = hyper["rhat"].to_numpy().max(), hyper["ess"].to_numpy().min()  # NaN, of chains that do not move, stays
    numbers = f"R-hat at most {rhat:.3f}, effective draws at least {ess:,.0f}, {divergent:.1%} divergences"
    fine = rhat < MAX_RHAT and ess >= MIN_ESS and divergent <= MOST_DIVERGENT
    if (khat := attrs.get("importance_khat", np.nan)) < 0.7:  # draws in random order, that R-hat says nothing of
        numbers = f"importance sampling: Pareto k {khat:.2f}, {attrs['importance_ess']:,.0f} effective points"
        fine = True
    sentences.append(
        f"The hyperparameters have converged ({numbers})."
        if fine
        else f"The hyperparameters have NOT converged ({numbers}): take their intervals, and the scales of single "
        "features, as rough."
    )
    if (poor := attrs["khat_above_0.7"]) > MANY:
        sentences.append(
            f"The hyperparameters rest on importance weights that are poor for {poor:.0%} of the features "
            "(Pareto k above 0.7): take their intervals as rough."
        )
    return sentences


def _on_teachers(taught: int, wanted: int) -> list[str]:
    if taught >= wanted:
        return []
    return [
        f"What features share comes from {taught} of them and not from {wanted}, as where a scale is 0 as far as the data "
        "tell: intervals of typical scales and spreads are wide. A preview goes on without that, and may look more exact."
    ]


def _on_together(attrs: Mapping[str, Any]) -> list[str]:
    """Of features that tell less than independent ones would."""
    taught, effective = attrs["features_of_ratios"], attrs["features_effective"]
    if effective > GO_TOGETHER * taught:
        return []
    return [
        f"Features go together: {taught} say as much about how noisy scanners are, and how large their biases, as "
        f"{effective:.0f} independent ones."
    ]


def _counted(reasons: pd.Series) -> str:
    return ", ".join(f"{name}: {n:,}" for name, n in reasons.value_counts().items())


def _on_waiting(leapfrog: Mapping[str, float] | None) -> list[str]:
    if leapfrog is None or leapfrog["max_over_mean"] <= MOST_WAITING:
        return []
    return [
        f"Features waited for one another: the slowest of a block took {leapfrog['max_over_mean']:.1f} times the mean of "
        f"{leapfrog['mean']:.1f} leapfrog steps a draw. The results are right, and took longer than they need."
    ]


def _on_approximation(features: pd.DataFrame) -> list[str]:
    poor = features[~(features["converged"] & (features["khat"] < 0.7))]
    if not len(poor):
        return [f"The approximation is good for all {len(features):,} features (Pareto k below 0.7)."]
    reasons = _counted(poor["reason"].where(~poor["converged"], "Pareto k"))
    return [f"The approximation is poor for {len(poor):,} of {len(features):,} features ({reasons}): {shorten(poor.index)}."]


def _on_dropped(dropped: Mapping[str, str]) -> list[str]:
    if not dropped:
        return []
    return [
        f"Features left out before the fit ({len(dropped):,}): {shorten(dropped, 3)}; the first is "
        f"{next(iter(dropped.values()))}."
    ]
