"""Summary of a posterior: effect sizes, hyperparameters, scanners, convergence and caveats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bayesharm.analysis.convergence import describe_convergence
from bayesharm.analysis.scan_weights import describe_tails, list_scan_weights, scan_weights_table
from bayesharm.analysis.units import fit_units, on_slopes, slope_columns
from bayesharm.data.finding import finding_from_dict
from bayesharm.errors import shorten
from bayesharm.model.labels import NOISE_RATIO
from bayesharm.results.console import SOURCE_DESCRIPTIONS, as_text, bullets, format_with_interval, make_table
from bayesharm.results.posterior import REASONS, Posterior
from bayesharm.results.schema import SCANNER_RATIOS
from bayesharm.results.tables import Tables

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

INTERVAL = (0.05, 0.5, 0.95)  # quantiles: the median and the ends of the 90% interval


@dataclass(frozen=True, eq=False, repr=False)
class Summary(Tables):
    """A posterior in a few tables. Intervals are 90%: columns `…_q05` and `…_q95`.

    Attributes
    ----------
    about : dict
        Model, title, numbers of scans, scanners and features, seed; `components`, the components of measurement bias that
        have effects of their own; `feature_scaling`: whether "sd" below is that of each feature (`per_feature`) or the root
        mean square over features (`common`); `units` of effects and scales; `slopes`, what slopes are; `preview`.
    effect_sizes : DataFrame by family
        Root mean square of the effects over levels and features, including their uncertainty: `rms` in the features' units
        (missing where these differ by a factor of more than 100) and `rms_in_sd` in sd of a feature. For `noise`, its
        standard deviation. For slopes, such as `participant_time`, the change for one sd of the column.
    hyper : DataFrame by family
        `scale`, exp(eta), the typical scale in sd of a feature, and `spread`, omega, the sd of log-scales over features,
        with intervals; the larger `rhat` and the smaller `ess` of the two. `noise_ratio`: the factor of a scanner's noise sd
        in a feature, whose typical value is 1.
    scanners : DataFrame by scanner
        `bias`, root mean square over features of the posterior mean of the effect that harmonizing removes, and
        `uncertainty`, that of its posterior sd (both in sd of a feature); `noise_ratio` (lambda) and `bias_ratio` (kappa),
        the variance of noise and of bias relative to the average scanner, and `gain` (g), the factor on differences
        between people, with intervals; `from_data`, the share of the information on the effect that comes from the data
        rather than the prior. Largest bias first.
    features : DataFrame by feature
        `converged`, or the `reason` why not; largest `rhat` and smallest `ess_bulk` of its scales, `divergences`, `khat` of
        the Laplace approximation, and the posterior mean of each scale in the feature's units.
    diagnostics : tuple of str
        Convergence, in sentences.
    notes : tuple of str
        Caveats: findings on the data, contrasts that the study does not identify, and features left out.
    scans : DataFrame by scan_id, or None
        With Student-t noise, the weights of the scans, smallest first
        (:func:`bayesharm.analysis.scan_weights.list_scan_weights`); `about` then has `tails`, a sentence on the noise.
    """

    about: dict[str, Any]
    effect_sizes: pd.DataFrame
    hyper: pd.DataFrame
    scanners: pd.DataFrame
    features: pd.DataFrame
    diagnostics: tuple[str, ...]
    notes: tuple[str, ...]
    scans: pd.DataFrame | None = None

    def __str__(self) -> str:
        return as_text(self)

    def __rich__(self) -> Group:
        return render_summary(self)


def summarize(posterior: Posterior) -> Summary:
    """Summarize a posterior in a few tables and plain sentences.

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
    return Summary(
        about={
            "model": spec.name,
            "title": spec.title,
            "n_scans": run["n_scans"],
            "n_scanners": len(posterior.scanners),
            "n_features": len(features),
            "feature_scaling": spec.feature_scaling,
            "units": fit_units(posterior),
            "slopes": on_slopes(posterior),
            "components": spec.components if len(spec.components) > 1 else (),
            "seed": run["seed"],
            "preview": bool(posterior.preview_notice),
        }
        | ({"tails": describe_tails(posterior)} if spec.has_tails else {}),
        effect_sizes=_effect_sizes(posterior),
        hyper=hyper,
        scanners=_scanners(posterior),
        features=features,
        diagnostics=describe_convergence(posterior, hyper, features),
        notes=(
            *(finding_from_dict(record).sentence for record in run.get("findings", ())),
            *run["notes"],
            *_describe_dropped(run["dropped"]),
        ),
        scans=list_scan_weights(posterior),
    )


def _effect_sizes(posterior: Posterior) -> pd.DataFrame:
    scales = posterior.scales
    feature_sd, slopes = scales["feature_scale"].values, slope_columns(posterior)
    square = {}
    for name in posterior.effect_families:
        if name != "covariate":  # slopes have the units of the covariate
            effect = posterior.effect(name)
            unit = slopes[name].sd if name in slopes else 1.0
            square[name] = unit**2 * (effect["mean"].values ** 2 + effect["sd"].values ** 2)
    noise = scales.sel(family="noise")
    square["noise"] = (noise["mean"].values ** 2 + noise["sd"].values ** 2)[None]
    has_rms = posterior.is_single_modality
    rms = {name: np.sqrt(np.nanmean(values)) if has_rms else np.nan for name, values in square.items()}
    rms_in_sd = {name: np.sqrt(np.nanmean(values / feature_sd**2)) for name, values in square.items()}
    return pd.DataFrame({"rms": rms, "rms_in_sd": rms_in_sd}).rename_axis("family")


def _hyper(posterior: Posterior) -> pd.DataFrame:
    from arviz_stats.base import array_stats

    hyper = posterior.hyper
    rows = []
    for k, family in enumerate(hyper["family"].values):
        row: dict[str, Any] = {"family": str(family)}
        rhat, ess = [], []
        eta, omega = hyper["eta"].values[..., k], hyper["omega"].values[..., k]
        for name, draws in (("scale", np.exp(eta)), ("spread", omega)):
            low, median, high = np.quantile(draws, INTERVAL)
            row |= {name: median, f"{name}_q05": low, f"{name}_q95": high}
            if name == "spread" or family != NOISE_RATIO:  # noise ratios have a fixed mean
                rhat.append(float(array_stats.rhat(draws, chain_axis=0, draw_axis=1)))
                ess.append(float(array_stats.ess(draws, chain_axis=0, draw_axis=1)))
        sampled = {"rhat": max(rhat), "ess": min(ess)}
        rows.append(row | (dict.fromkeys(sampled, np.nan) if posterior.preview_notice else sampled))
    return pd.DataFrame(rows).set_index("family")


def _scanners(posterior: Posterior) -> pd.DataFrame:
    effect = posterior.effect(posterior.spec.removed_effect)
    feature_sd = posterior.scales["feature_scale"].values
    table = pd.DataFrame(index=pd.Index(posterior.scanners, name="scanner"))
    for name, statistic in (("bias", "mean"), ("uncertainty", "sd")):
        table[name] = np.sqrt(np.nanmean((effect[statistic].values / feature_sd) ** 2, axis=1))
    for name in SCANNER_RATIOS:
        ratio = posterior.hyper[name].values.reshape(-1, len(table))
        table[f"{name}_q05"], table[name], table[f"{name}_q95"] = np.quantile(ratio, INTERVAL, axis=0)
    table["from_data"] = effect["contraction"].values
    return table.sort_values("bias", ascending=False, kind="stable")


def _features(posterior: Posterior) -> pd.DataFrame:
    scales = posterior.scales
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


def _describe_dropped(dropped: Mapping[str, str]) -> list[str]:
    if not dropped:
        return []
    return [
        f"Features left out before the fit ({len(dropped):,}): {shorten(dropped, 3)}. Reason for the first: "
        f"{next(iter(dropped.values()))}."
    ]


def is_estimated(scanners: pd.DataFrame, ratio: str) -> bool:
    """Return whether a ratio of scanners, such as `bias_ratio`, was estimated; it is 1 otherwise."""
    return bool((scanners[f"{ratio}_q05"] < scanners[f"{ratio}_q95"]).any())


def render_summary(summary: Summary) -> Group:
    """Render the summary for a terminal or a text file of 80 columns or more."""
    from rich.console import Group
    from rich.text import Text

    about = summary.about
    counts = (
        f"{about['n_scans']:,} scans, {about['n_scanners']} scanners, {about['n_features']:,} features, seed {about['seed']}"
    )
    return Group(
        Text.assemble((f"Model {about['model']}", "bold"), f"\n{about['title']}\n{counts}\n"),
        effect_size_table(summary),
        hyper_table(summary),
        scanners_table(summary),
        *([gains_table(summary)] if is_estimated(summary.scanners, "gain") else []),
        *([] if summary.scans is None else [scan_weights_table(summary.scans, about["tails"])]),
        bullets("Convergence", summary.diagnostics),
        bullets("Caveats", summary.notes),
    )


def effect_size_table(summary: Summary) -> Table:
    """Render the size of each source of variation; in units only where the features may share them."""
    has_units = summary.effect_sizes["rms"].notna().any()
    table = make_table(
        "Size of each source of variation between scans",
        f"Root mean square of the effects over levels and features, including their uncertainty. {_define_sd(summary)}"
        + (f" Units: {summary.about['units']}." if has_units else "")
        + summary.about["slopes"],
        ["source", "in sd", *(["in units"] if has_units else []), "description"],
    )
    for family, row in summary.effect_sizes.sort_values("rms_in_sd", ascending=False).iterrows():
        in_units = [f"{row.rms:.4g}"] if has_units else []
        default = "component of measurement bias" if family in summary.about["components"] else ""
        table.add_row(str(family), f"{row.rms_in_sd:.3f}", *in_units, SOURCE_DESCRIPTIONS.get(str(family), default))
    return table


def hyper_table(summary: Summary) -> Table:
    """Render the hyperparameters with their intervals."""
    has_offset = summary.about["feature_scaling"] == "per_feature"
    table = make_table(
        "Scales over all features, with 90% intervals",
        "Typical: typical scale, exp(eta), in sd. Spread: sd of log-scales over features, omega"
        + (", without the offset that all scales of a feature share" if has_offset else "")
        + f". {_define_sd(summary)}"
        + (" Noise_ratio: factor of a scanner's noise sd in a feature." if NOISE_RATIO in summary.hyper.index else ""),
        ["family", "typical", "90% interval", "spread", "90% interval"],
    )
    for family, row in summary.hyper.iterrows():
        cells = [cell for name in ("scale", "spread") for cell in format_with_interval(row, name)]
        table.add_row(str(family), *cells)
    return table


def scanners_table(summary: Summary, max_rows: int = 20) -> Table:
    """Render the scanners with the largest bias."""
    shown = summary.scanners.head(max_rows)
    kappa = ["kappa"] if is_estimated(summary.scanners, "bias_ratio") else []
    title = "Scanners, largest bias first"
    if len(shown) < len(summary.scanners):
        title += f" ({len(shown)} of {len(summary.scanners)}; all of them: bayesharm summary RUN --out FOLDER)"
    table = make_table(
        title,
        "Bias: posterior mean, and its posterior sd (±): root mean squares over features, in sd. Figures and the report "
        "show the two together, with an interval. Noise: noise variance ratio (lambda), relative to the average scanner."
        + (" Kappa: bias variance ratio, relative to the average scanner." if kappa else "")
        + f" From data: share of the information on the bias that comes from the data, not the prior. {_define_sd(summary)}",
        ["scanner", "bias", "± sd", "noise", "90% interval", *kappa, "from data"],
    )
    for scanner, row in shown.iterrows():
        share = "" if np.isnan(row.from_data) else f"{row.from_data:.0%}"
        noise, ratio = format_with_interval(row, "noise_ratio", 2), [f"{row.bias_ratio:.2f}"] if kappa else []
        table.add_row(str(scanner), f"{row.bias:.3f}", f"{row.uncertainty:.3f}", *noise, *ratio, share)
    return table


def gains_table(summary: Summary, max_rows: int = 20) -> Table:
    """Render the gains of the scanners shown in the table before, largest first."""
    table = make_table(
        "Gains of scanners",
        "Gain: factor on differences between people, relative to the average scanner.",
        ["scanner", "gain", "90% interval"],
    )
    shown = summary.scanners.head(max_rows).sort_values("gain", ascending=False, kind="stable")
    for scanner, row in shown.iterrows():
        table.add_row(str(scanner), *format_with_interval(row, "gain", 2))
    return table


def _define_sd(summary: Summary) -> str:
    return {
        "per_feature": "Sd: standard deviation of each feature over the scans.",
        "common": "Sd: standard deviation over the scans, root mean square over features.",
    }[summary.about["feature_scaling"]]
