"""Sections for the paper: methods to paste, citations, the way to repeat the run, and a glossary."""

from __future__ import annotations

from bayesharm.reporting.run_view import RunView
from bayesharm.reporting.section import Section
from bayesharm.reporting.sections.commands import fit_command, own_model, remarks_on_fit
from bayesharm.reporting.sections.study import describe_linkage
from bayesharm.reporting.words import count, estimated_families, named, on_slopes, removed, slope_of_removed

GLOSSARY = {
    "Measurement bias": "difference between scanners in scans of the same person.",
    "Sampling bias": "difference between the people of different sites who have the same diagnosis.",
    "Site effect": "measurement and sampling bias together, where nobody traveled.",
    "Traveler": "a person with scans on several scanners.",
    "Feature": "a measure with one value per scan, such as an edge of a connectome or the thickness of a region.",
    "Sd of a feature": "standard deviation of the feature over all scans of the fit; with --feature-scaling common, the "
    "root mean square of these over features. The unit of most numbers here.",
    "90% interval": "the true value lies in it with a probability of 90%, given the model.",
    "±": "one posterior standard deviation; after a root mean square over features, that of a single feature.",
    "Prior, posterior": "knowledge before and after the data.",
    "From the data": "share of the information on an effect that comes from the data and not from the prior.",
    "Noise variance ratio": "noise variance of a scanner relative to the average scanner.",
    "Spread between scanners": "root mean square over scanners of their biases.",
    "Converged": "chains with different starts agree (R-hat), with enough effective draws, and without divergences.",
    "Preview": "an approximation without sampling.",
}
PAPER = (
    "Yamashita A, Yahata N, Itahashi T, et al. Harmonization of resting-state functional MRI data across multiple imaging "
    "sites via the separation of site differences into sampling bias and measurement bias. PLOS Biology 2019; 17(4): "
    "e3000042. doi:10.1371/journal.pbio.3000042"
)


def describe_methods(view: RunView) -> Section:
    """Return methods to paste into a paper, and what to cite."""
    about, posterior = view.summary.about, view.posterior
    version = posterior.run["versions"].get("bayesharm", "?")
    effects = ", ".join(named(view, family.name) for family in estimated_families(view))
    covariates = [*posterior.spec.covariates, *([posterior.spec.formula] if posterior.spec.formula else [])]
    settings, column = posterior.run["settings"], slope_of_removed(view)
    how = (
        "The posterior was approximated without sampling (preview)."
        if view.is_preview
        else f"The posterior was sampled by {'Gibbs sampling' if posterior.spec.has_tails else 'NUTS'} with "
        f"{settings.get('chains', 4)} chains per feature; a feature counts as "
        f"converged with R-hat below {settings.get('max_rhat', 1.01)} and at least {settings.get('target_ess', 400)} "
        f"effective draws ({int(view.summary.features['converged'].sum()):,} of {about['n_features']:,} features)."
    )
    noise = f"{'heavy-tailed ' * posterior.spec.has_tails}noise"
    if posterior.spec.noise_ratio != "homogeneous":
        noise += " whose variance differs between scanners"
    text = (
        f"We removed {removed(view)} from {count(about['n_features'], 'feature')} of {count(about['n_scans'], 'scan')} on "
        f"{count(about['n_scanners'], 'scanner')} with bayesharm {version} (model {about['model']}). "
        f"{describe_linkage(view)} The hierarchical Bayesian model has {effects} as sources of variation"
        + (
            f", {'effects of the formula' if posterior.spec.formula else 'linear effects of'} {', '.join(covariates)}"
            if covariates
            else ""
        )
        + f", and {noise}. {' '.join([*on_slopes(view), how])} From each scan we subtracted the posterior mean of the "
        f"effect of its scanner{f', at the {column} of the scan' * bool(column)} (seed {about['seed']}). The expected share "
        f"of the variance between scanners that this removes is {view.before_after.share_removed:.0%}"
        f"{f', at the mean {column}' * bool(column)}. The decomposition follows Yamashita et al. (2019)."
    )
    sentences = [
        "The first text is for the methods of a paper, to paste and to adapt. Cite bayesharm (CITATION.cff of its "
        "repository) and the study that introduced the decomposition."
    ]
    return Section("Methods and citation", sentences, code=(text, PAPER))


def describe_reproduction(view: RunView) -> Section:
    """Return the command, the seed and the versions that give the same run, and the model if it is the user's own."""
    run = view.posterior.run
    versions = ", ".join(f"{name} {version}" for name, version in sorted(run["versions"].items()))
    sentences = [
        f"The same command with the same data, seed ({run['seed']}) and versions gives the same result. Versions: "
        f"{versions}. Devices: {run.get('devices', 'unknown')}."
    ]
    found, own = run.get("fingerprint"), own_model(view)
    caveats = (*remarks_on_fit(view), *([f"Fingerprint of the features: {found}"] if found else []))
    return Section("Reproduce", sentences, caveats=caveats, code=(fit_command(view), *([own] if own else [])))


def describe_glossary(view: RunView) -> Section:
    """Explain the words of the report."""
    return Section("Glossary", [], caveats=tuple(f"{word}: {meaning}" for word, meaning in GLOSSARY.items()), is_folded=True)
