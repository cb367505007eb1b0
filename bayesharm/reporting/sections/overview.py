"""The first screen: model and scans, limits of the study, changes by harmonization, reliability, and next steps."""

from __future__ import annotations

import numpy as np

from bayesharm.analysis.convergence import MAX_KHAT, NOT_CONVERGED, ROUGH_TAILS
from bayesharm.errors import listed
from bayesharm.model.catalog import load_calibration, model_names
from bayesharm.reporting.charts.base import short
from bayesharm.reporting.charts.before_after import people_chart, spread_chart
from bayesharm.reporting.charts.scanners import bias_chart
from bayesharm.reporting.predictive_check import check_travelers, find_unusual
from bayesharm.reporting.run_view import RunView
from bayesharm.reporting.section import Chart, Light, Overview
from bayesharm.reporting.sections.commands import harmonize_command
from bayesharm.reporting.sections.study import describe_linkage
from bayesharm.reporting.words import LITTLE_FOUND, MOSTLY_PRIOR, count, includes_people, on_removed_slope, removed

GOOD, CAREFUL, BAD = "good", "careful", "bad"
MAX_POOR = 0.1  # share of features with a poor approximation above which a preview is not usable
MAX_FAILED = 0.01  # share of features without convergence above which a run is not usable
LEAST_COVERAGE = 0.85  # of 90% intervals in simulated studies, below which a light is not green
# Options of the studies of `make calibrate`
TESTED = {"likelihood": "gaussian", "gain": "none", "noise_weight": "", "feature_scaling": "per_feature"}


def describe_overview(view: RunView) -> Overview:
    """Describe a run for the person who decides whether to use the harmonized data."""
    lights = (_convergence(view), _linkage(view), _knowledge(view), _data(view), _calibration(view))
    return Overview(
        *_verdict(view, lights), [_on_study(view), *_on_change(view)], lights, _numbers(view), _steps(view, lights),
        _charts(view),
    )  # fmt: skip


def _on_study(view: RunView) -> str:
    about = view.summary.about
    return (
        f"The model {about['model']} was fitted to {count(about['n_scans'], 'scan')} on "
        f"{count(about['n_scanners'], 'scanner')}, {count(about['n_features'], 'feature')}. {describe_linkage(view)} "
        f"Harmonizing removes {_what(view)}."
    )


def _what(view: RunView) -> str:
    if includes_people(view):
        return f"{removed(view)}: differences between scanners together with differences between their people"
    return f"{removed(view)}, the difference between scanners in scans of the same person"


def _on_change(view: RunView) -> list[str]:
    result = view.before_after
    before, after = (float(np.sqrt(np.nanmean(values**2))) for values in (result.before, result.after))
    sentences = [
        f"Before harmonization, scanners differ by {short(before)} sd of a feature (root mean square); the error that "
        f"remains afterwards is {short(after)} sd. {result.share_removed:.0%} of the variance between scanners is removed."
    ]
    if result.is_little:
        sentences.append(LITTLE_FOUND)
    if (observed := result.observed()) is not None:
        sentences.append(
            f"In the scans themselves, the means of a traveler on different scanners have a standard deviation of "
            f"{short(observed[0])} sd before and {short(observed[1])} sd after harmonization; noise of the scans alone "
            f"would leave {short(observed[2])} sd. These are the scans of the fit: 'bayesharm evaluate' measures the same "
            "in people left out of it."
        )
    return [*sentences, *on_removed_slope(view)]


def _convergence(view: RunView) -> Light:
    question = "Has the computation converged?"
    if view.is_preview:
        khat = view.summary.features["khat"]
        n_poor, n = int((~(khat < MAX_KHAT)).sum()), len(khat)
        if n_poor > MAX_POOR * n:
            return Light(
                question, BAD, f"No: this is a preview, and its approximation is poor in {n_poor:,} of {n:,} features."
            )
        return Light(
            question, CAREFUL, "This is a preview, an approximation. Fit without --preview before you report results."
        )
    features, diagnostics = view.summary.features, view.summary.diagnostics
    failed = int((~features["converged"]).sum())
    is_rough = any(sentence.startswith((NOT_CONVERGED, ROUGH_TAILS)) for sentence in diagnostics)
    if failed > MAX_FAILED * len(features):
        return Light(question, BAD, f"No: {failed:,} of {count(len(features), 'feature')} have not converged.")
    if failed or is_rough:
        what = f"{failed:,} of {len(features):,} features have not converged" if failed else "the hyperparameters are rough"
        return Light(question, CAREFUL, f"Nearly: {what}. Do not use these features." if failed else f"Nearly: {what}.")
    return Light(question, GOOD, f"Yes, in {'the feature' if len(features) == 1 else f'all {len(features):,} features'}.")


def _linkage(view: RunView) -> Light:
    question = "Can scanners be told apart from their people?"
    design = view.posterior.design
    component = design["component"].values
    n_groups, n_scanners = len(set(component)), len(component)
    if includes_people(view) and n_groups < n_scanners:
        return Light(
            question, BAD,
            "No: people traveled, but this model has no sampling bias. Harmonizing also removes real differences between "
            "the people of different scanners.",
        )  # fmt: skip
    if n_groups == 1:
        n = int(design["n_travelers"].values.min())
        return Light(question, GOOD, f"Yes: travelers link all scanners, at least {count(n, 'traveler')} on each.")
    if n_groups == n_scanners:
        return Light(
            question, BAD,
            "No: nobody traveled. Harmonizing also removes real differences between the people of different scanners.",
        )  # fmt: skip
    sizes = {group: int(np.sum(component == group)) for group in set(component)}
    largest = max(sizes, key=lambda group: sizes[group])
    apart = [str(name) for name, group in zip(design["scanner"].values, component, strict=True) if group != largest]
    return Light(
        question, CAREFUL,
        f"Partly: no traveler links {listed(apart)} to the other scanners. Their bias includes differences between people.",
    )  # fmt: skip


def _knowledge(view: RunView) -> Light:
    question = "Is the bias of each scanner known?" if not includes_people(view) else "Is the effect of each site known?"
    table = view.summary.scanners
    share = table["from_data"]
    weak = [str(name) for name in share.index[~(share >= MOSTLY_PRIOR)]]
    mean = f"On average {share.mean():.0%} of the information on a scanner comes from the data."
    if not weak:
        return Light(question, GOOD, f"Yes. {mean}")
    level = BAD if len(weak) == len(share) else CAREFUL
    return Light(question, level, f"Not of {listed(weak)}, where the prior says more than the data. {mean}")


def _data(view: RunView) -> Light:
    question = "Do the data raise doubts?"
    findings, notes = view.posterior.run.get("findings", ()), view.summary.notes
    beyond = _beyond_noise(view)
    words = [count(len(findings), "finding")] if findings else []
    n_others = len([note for note in notes if "chosen because" not in note]) - len(findings)
    words += [count(n_others, "caveat")] if n_others > 0 else []
    if not words and not beyond:
        return Light(question, GOOD, "No findings on the data and no caveats.")
    answer = [f"{' and '.join(words)}, listed under \u201cAre the results reliable?\u201d."] if words else []
    if beyond:
        answer.append(f"Harmonized scans of travelers differ by more than noise predicts on {listed(beyond)}.")
    return Light(question, CAREFUL, " ".join(answer))


def _calibration(view: RunView) -> Light:
    question = "Do 90% intervals contain the truth?"
    spec = view.posterior.spec
    found = load_calibration(spec.name) if spec.name in model_names() else None
    is_tested = all(getattr(spec, name) == value for name, value in TESTED.items()) and spec.noise_ratio != "scanner-feature"
    lacks_values = "n_observed" in view.posterior.design
    if found is None or view.is_preview or not is_tested or lacks_values:
        what = (
            "previews" if view.is_preview
            else "this model" if found is None
            else "the options of this fit" if not is_tested
            else "missing values"
        )  # fmt: skip
        return Light(question, CAREFUL, f"Not tested in simulated studies for {what}.")
    low, high = (f"{bound(found['coverage'].values()):.0%}" for bound in (min, max))
    return Light(
        question, GOOD if min(found["coverage"].values()) >= LEAST_COVERAGE else CAREFUL,
        f"In {found['datasets']} simulated studies of this model with few features, 90% intervals contain {low} to {high} "
        "of the true values, by kind of result.",
    )  # fmt: skip


def _beyond_noise(view: RunView) -> list[str]:
    return find_unusual(check_travelers(view.before_after))[0]


def _verdict(view: RunView, lights: tuple[Light, ...]) -> tuple[str, str]:
    converged, linked, *_ = lights
    if view.is_preview and converged.level == BAD:
        return BAD, "A preview whose approximation is poor: fit without --preview."
    if view.is_preview:
        return CAREFUL, "A preview: good enough to look at, not to report."
    if converged.level == BAD:
        return BAD, "Do not use these results yet: the computation has not converged."
    if linked.level == BAD:
        return BAD, "Use with care: scanners and their people cannot be told apart."
    if view.before_after.is_little:
        return CAREFUL, "Usable, but the estimated biases are smaller than their uncertainty."
    if any(light.level != GOOD for light in (converged, linked, lights[2])) or _beyond_noise(view):
        return CAREFUL, "Usable, with the restrictions below."
    return GOOD, "Ready to use."


def _numbers(view: RunView) -> tuple[tuple[str, str], ...]:
    table, result, largest = view.summary.scanners, view.before_after, view.scanners.iloc[0]
    effect = "largest site effect" if includes_people(view) else "largest scanner bias"
    known = f"of the information on {removed(view)} comes from the data, not from the prior"
    return (
        (f"{result.share_removed:.0%}", "of the variance between scanners is removed (expected)"),
        (
            short(largest.rms),
            f"({largest.rms_q05:#.2g} to {largest.rms_q95:#.2g}) in {view.units}: {effect}, {largest.name}",
        ),
        (f"{np.nanmean(table['from_data']):.0%}", known),
    )


def _steps(view: RunView, lights: tuple[Light, ...]) -> tuple[str, ...]:
    steps = []
    if view.is_preview:
        steps.append("Fit without `--preview`.")
    elif lights[0].level == BAD:
        steps.append("Look at the features that have not converged, under \u201cConvergence of each feature\u201d.")
    steps.append(f"Harmonize: `{harmonize_command(view)}`")
    if includes_people(view) and view.posterior.design["n_travelers"].values.any():
        steps.append("Some people traveled: fit with `--model traveling_and_cohort`, which separates scanners from people.")
    elif includes_people(view):
        steps.append("Scan a few people on several scanners: only travelers separate scanners from their people.")
    steps.append(
        "Carry the uncertainty of the correction into your analysis: `bayesharm.propagate`, or draws with "
        "`--draws 20 --draws-file draws.npy`."
    )
    if not view.is_preview:
        steps.append("Measure the benefit on people left out of the fit: `bayesharm evaluate`.")
    return tuple(steps)


def _charts(view: RunView) -> tuple[Chart, ...]:
    result, posterior = view.before_after, view.posterior
    charts: list[Chart] = []
    if result.people is not None and len(posterior.scanners) > 1:
        k = int(np.nanargmax(np.mean(result.bias**2, axis=0)))
        scales = posterior.scales
        unit = float(scales["feature_scale"].values[k]), float(scales["center"].values[k])
        charts.append(people_chart(result, posterior.features, k, unit, view.feature_units))
    charts.append(spread_chart(result, posterior.features, len(posterior.scanners)))
    charts.append(bias_chart(view.summary.scanners))
    return tuple(charts)
