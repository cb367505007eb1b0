"""What a simulated study is made from: scales of every family, and effects drawn with them (Fisher z)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from bayesharm.datasets import srpbs

# Root mean square of every scale over features, in Fisher z. Measurement, participant and disorder: published
# sds over edges, which are of ridge estimates and so a little small. Sampling bias and noise are ours.
RMS = {
    "noise": 0.15, "participant": 0.066, "measurement": 0.043, "disorder": 0.038,
    "sampling_HC": 0.04, "sampling_MDD": 0.04, "sampling_SCZ": 0.04,
}  # fmt: skip

# The same of protocol factors and of what is left of a scanner, in the published order (the sizes are ours); together they
# are as large as measurement bias.
PROTOCOL_RMS = {"phase_encoding": 0.028, "manufacturer": 0.022, "coil": 0.017, "scanner_model": 0.012, "scanner": 0.012}

# Every purpose draws from a stream of its own, so that an option changes only what it is for.
STREAMS = (
    "mean", "scales", "noise_ratio", "measurement", "sampling", "disorder", "traveler", "cohort",
    "traveler_people", "cohort_people", "traveler_noise", "cohort_noise", "traveler_tails", "cohort_tails",
    "protocol_scales", "protocol", "bias_ratio",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Truth:
    """What a simulation was made from, in the units of its features.

    Attributes
    ----------
    mean : ndarray, shape (feature,)
    scales : dict of str to ndarray, shape (feature,)
        Standard deviation of the effects of each family and of the noise; that of ``measurement``, where it is made of
        protocol factors, is the root of their sum of squares.
    effects : dict of str to DataFrame, level x feature
        As drawn, not centered: ``measurement`` (by scanner), ``sampling`` (by ``site/diagnosis``),
        ``disorder`` (by diagnosis; HC is 0 and left out), ``participant`` (travelers only).
    noise_ratio : Series by scanner
        Ratio of the noise *variance* of a scanner; geometric mean 1.
    bias_ratio : Series by scanner
        The same of the variance of its measurement bias: that of scanner k is ``bias_ratio[k] * scales["measurement"]**2``.
    hyper : DataFrame, family x (eta, omega)
        Mean and sd of the natural log of the scales; a family without effects has no row.
    factors : dict of str to DataFrame, level x feature
        What ``measurement`` is made of, if it is: protocol factors by their levels, and ``scanner``, what is left.
    """

    mean: np.ndarray
    scales: dict[str, np.ndarray]
    effects: dict[str, pd.DataFrame]
    noise_ratio: pd.Series
    bias_ratio: pd.Series
    hyper: pd.DataFrame
    factors: dict[str, pd.DataFrame] = field(default_factory=dict)


def draw_truth(
    streams: dict[str, np.random.Generator],
    names: np.ndarray,
    people: np.ndarray,
    scale_log_sd: float,
    sampling_bias: bool,
    noise_ratio_log_sd: float,
    bias_ratio_log_sd: float,
    rms: Mapping[str, float],
    protocol: Mapping[str, float],
) -> Truth:
    """What a study of features with these names, and of these travelers, is made from.

    Parameters
    ----------
    streams : dict of Generator
        By the names in `STREAMS`.
    names : (feature,) array
    people : (traveler,) array
    scale_log_sd, sampling_bias, noise_ratio_log_sd, bias_ratio_log_sd
        As for :func:`bayesharm.datasets.simulate.simulate_srpbs`.
    rms, protocol : mapping
        Root mean squares of the scales: of every family of `RMS`; of protocol factors, if any.
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
        return label(streams[stream].standard_normal((n, len(levels))) * scales, levels, dim)

    def label(draws: np.ndarray, levels: Sequence[str], dim: str) -> pd.DataFrame:
        return pd.DataFrame(draws.T, index=pd.Index(levels, name=dim), columns=pd.Index(names, name="feature"))

    populations = srpbs.population_diagnoses()
    tau_sampling = np.column_stack([tau[f"sampling_{diagnosis}"] for diagnosis in populations.values()])
    scanners = pd.Index(list(srpbs.SCANNERS), name="scanner")

    def ratio(stream: str, log_sd: float) -> pd.Series:
        log_ratio = log_sd * streams[stream].standard_normal(len(scanners))
        return pd.Series(np.exp(log_ratio - log_ratio.mean()), index=scanners, name=stream)

    noise_ratio, bias_ratio = ratio("noise_ratio", noise_ratio_log_sd), ratio("bias_ratio", bias_ratio_log_sd)
    sizes = tau["measurement"][:, None] * np.sqrt(bias_ratio.to_numpy())
    measurement = effects("measurement", list(srpbs.SCANNERS), sizes, "scanner")
    factors: dict[str, pd.DataFrame] = {}
    if protocol:
        of_factors, tau_factors = scales("protocol_scales", protocol)
        hyper, tau = pd.concat([hyper.drop(index="measurement"), of_factors]), tau | tau_factors
        tau["measurement"] = np.sqrt(sum(scale**2 for scale in tau_factors.values()))
        of_scanners = {name: srpbs.levels_of_scanners(name) for name in protocol}
        levels = {name: sorted({*of}) for name, of in of_scanners.items()}
        z = streams["protocol"].standard_normal((n, sum(map(len, levels.values()))))
        for name, some in levels.items():
            factors[name] = label(z[:, : len(some)] * tau[name][:, None], some, name)
            z = z[:, len(some) :]
        measurement[:] = sum(factors[name].loc[of].to_numpy() for name, of in of_scanners.items())
    return Truth(
        mean=streams["mean"].normal(0.2, 0.25, n),
        scales=tau,
        effects={
            "measurement": measurement,
            "sampling": effects("sampling", list(populations), tau_sampling, "population"),
            "disorder": effects("disorder", srpbs.DIAGNOSES, tau["disorder"][:, None], "diagnosis"),
            "participant": effects("traveler", list(people), tau["participant"][:, None], "participant"),
        },
        noise_ratio=noise_ratio,
        bias_ratio=bias_ratio,
        hyper=hyper,
        factors=factors,
    )
