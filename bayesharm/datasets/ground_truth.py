"""Ground truth of a simulated study: variance ratios, scales of every family and the effects themselves (Fisher z)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from bayesharm.datasets import srpbs

# Root mean square over features of each family's scale, in Fisher z. Measurement, participant and disorder: published sds
# over edges, slightly too small because they are from ridge estimates. Sampling bias and noise: our choice.
RMS = {
    "noise": 0.15, "participant": 0.066, "measurement": 0.043, "disorder": 0.038,
    "sampling_HC": 0.04, "sampling_MDD": 0.04, "sampling_SCZ": 0.04,
}  # fmt: skip

# The same for protocol factors and the scanner's residual, in Fisher z. Their order of size is published, the values are our
# choice; their root sum of squares is that of measurement bias.
PROTOCOL_RMS = {"phase_encoding": 0.028, "manufacturer": 0.022, "coil": 0.017, "scanner_model": 0.012, "scanner": 0.012}

# Each quantity has its own random stream, so that an option changes only the quantity that it is about.
STREAMS = (
    "mean", "scales", "noise_ratio", "measurement", "sampling", "disorder", "traveler", "cohort",
    "traveler_people", "cohort_people", "traveler_noise", "cohort_noise", "traveler_tails", "cohort_tails",
    "protocol_scales", "protocol", "bias_ratio", "gain", "feature_noise",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Truth:
    """True values of all quantities of a simulation, in the units of its features.

    Attributes
    ----------
    mean : ndarray, shape (feature,)
        Mean of each feature.
    scales : dict of str to ndarray, shape (feature,)
        Scale: standard deviation of the effects of each family, and of the noise. With protocol factors, the scale of
        ``measurement`` is the root sum of squares of their scales.
    effects : dict of str to DataFrame, level × feature
        As drawn, not centered: ``measurement`` (by scanner), ``sampling`` (by ``site/diagnosis``),
        ``disorder`` (by diagnosis, without HC, which is 0), ``participant`` (travelers only).
    noise_ratio : Series by scanner
        Relative noise *variance* lambda of each scanner; geometric mean 1.
    bias_ratio : Series by scanner
        Relative variance kappa of each scanner's measurement bias, ``bias_ratio[k] * scales["measurement"]**2``;
        geometric mean 1.
    gain : Series by scanner
        Factor g on differences between people: on sampling, disorder and participant effects; geometric mean 1.
    hyper : DataFrame, family × (eta, omega)
        Mean and sd of the natural log of each family's scales; families without effects have no row.
    factors : dict of str to DataFrame, level × feature
        With protocol factors, their effects by level, and ``scanner``, the residual; they add up to ``measurement``.
    slope_correlation : float, optional
        In a longitudinal study, the correlation of people's intercepts with their slopes.
    feature_noise : DataFrame, scanner × feature, optional
        Factor of the noise sd of each scanner and feature, beside that of the noise ratio; 1 if it is None.
    """

    mean: np.ndarray
    scales: dict[str, np.ndarray]
    effects: dict[str, pd.DataFrame]
    noise_ratio: pd.Series
    bias_ratio: pd.Series
    gain: pd.Series
    hyper: pd.DataFrame
    factors: dict[str, pd.DataFrame] = field(default_factory=dict)
    slope_correlation: float | None = None
    feature_noise: pd.DataFrame | None = None


def draw_truth(
    streams: dict[str, np.random.Generator],
    names: np.ndarray,
    travelers: np.ndarray,
    scale_log_sd: float,
    sampling_bias: bool,
    noise_ratio_log_sd: float,
    bias_ratio_log_sd: float,
    gain_log_sd: float,
    feature_noise_log_sd: float,
    rms: Mapping[str, float],
    protocol: Mapping[str, float],
) -> Truth:
    """Draw the ground truth of a study.

    Parameters
    ----------
    streams : dict of Generator
        Random streams, by the names in `STREAMS`.
    names : (feature,) array
        Feature names.
    travelers : (traveler,) array
        Identifiers of the travelers.
    scale_log_sd, sampling_bias, noise_ratio_log_sd, bias_ratio_log_sd, gain_log_sd, feature_noise_log_sd
        As for :func:`bayesharm.datasets.simulate.simulate_srpbs`.
    rms, protocol : mapping
        Root mean square of the scales: of every family in `RMS`, and of the protocol factors, if any.

    Returns
    -------
    Truth
    """
    n = len(names)

    def scales(stream: str, rms: Mapping[str, float]) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
        eta = np.log(list(rms.values())) - scale_log_sd**2
        hyper = pd.DataFrame({"eta": eta, "omega": float(scale_log_sd)}, index=pd.Index(list(rms), name="family"))
        z = streams[stream].standard_normal((n, len(hyper)))
        return hyper, dict(zip(rms, np.exp(eta + scale_log_sd * z).T.copy(), strict=True))

    hyper, tau = scales("scales", rms)
    if not sampling_bias:
        sampling = [f"sampling_{diagnosis}" for diagnosis in srpbs.POPULATIONS]
        tau |= {family: np.zeros(n) for family in sampling}
        hyper = hyper.drop(index=sampling)

    def effects(stream: str, levels: Sequence[str], scales: np.ndarray, dim: str) -> pd.DataFrame:
        return to_table(streams[stream].standard_normal((n, len(levels))) * scales, levels, dim)

    def to_table(draws: np.ndarray, levels: Sequence[str], dim: str) -> pd.DataFrame:
        return pd.DataFrame(draws.T, index=pd.Index(levels, name=dim), columns=pd.Index(names, name="feature"))

    populations = srpbs.population_diagnoses()
    tau_population = np.column_stack([tau[f"sampling_{diagnosis}"] for diagnosis in populations.values()])
    scanners = pd.Index(list(srpbs.SCANNERS), name="scanner")

    def ratio(stream: str, log_sd: float) -> pd.Series:
        log_ratio = log_sd * streams[stream].standard_normal(len(scanners))
        return pd.Series(np.exp(log_ratio - log_ratio.mean()), index=scanners, name=stream)

    feature_noise = None
    if feature_noise_log_sd:
        z = streams["feature_noise"].standard_normal((n, len(scanners)))
        feature_noise = to_table(np.exp(feature_noise_log_sd * z), list(scanners), "scanner")
    noise_ratio, bias_ratio = ratio("noise_ratio", noise_ratio_log_sd), ratio("bias_ratio", bias_ratio_log_sd)
    bias_scales = tau["measurement"][:, None] * np.sqrt(bias_ratio.to_numpy())
    measurement = effects("measurement", list(srpbs.SCANNERS), bias_scales, "scanner")
    factors: dict[str, pd.DataFrame] = {}
    if protocol:
        factor_hyper, tau_factors = scales("protocol_scales", protocol)
        hyper, tau = pd.concat([hyper.drop(index="measurement"), factor_hyper]), tau | tau_factors
        tau["measurement"] = np.sqrt(sum(scale**2 for scale in tau_factors.values()))
        scanner_levels = {name: srpbs.factor_levels(name) for name in protocol}
        levels = {name: sorted({*labels}) for name, labels in scanner_levels.items()}
        z = streams["protocol"].standard_normal((n, sum(map(len, levels.values()))))
        for name, labels in levels.items():
            factors[name] = to_table(z[:, : len(labels)] * tau[name][:, None], labels, name)
            z = z[:, len(labels) :]
        measurement[:] = sum(factors[name].loc[labels].to_numpy() for name, labels in scanner_levels.items())
    return Truth(
        mean=streams["mean"].normal(0.2, 0.25, n),
        scales=tau,
        effects={
            "measurement": measurement,
            "sampling": effects("sampling", list(populations), tau_population, "population"),
            "disorder": effects("disorder", srpbs.DIAGNOSES, tau["disorder"][:, None], "diagnosis"),
            "participant": effects("traveler", list(travelers), tau["participant"][:, None], "participant"),
        },
        noise_ratio=noise_ratio,
        bias_ratio=bias_ratio,
        gain=ratio("gain", gain_log_sd),
        hyper=hyper,
        factors=factors,
        feature_noise=feature_noise,
    )
