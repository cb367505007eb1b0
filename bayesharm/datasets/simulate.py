"""Simulation of a study like SRPBS (411 scans of travelers, a cohort of 805 people) with known ground truth.

The model is that of the fit, in Fisher z::

    y = mean + measurement[scanner] + gain[scanner] (sampling[population] + disorder[diagnosis] + participant) + noise
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from bayesharm.datasets import srpbs
from bayesharm.datasets.ground_truth import PROTOCOL_RMS, RMS, STREAMS, Truth, draw_truth
from bayesharm.datasets.option_checks import Check, common_checks, refuse_impossible
from bayesharm.errors import InputError, shorten
from bayesharm.notebook import make_card, one_line

BLOCK = 512  # features simulated at a time, which bounds memory; the numbers do not depend on it


@dataclass(frozen=True, eq=False, repr=False)
class Simulation:
    """A simulated study.

    Attributes
    ----------
    scans : DataFrame
        The scans table.
    features : (scan, feature) array
        Values in Fisher z, with rows in the order of `scans`.
    feature_names : (feature,) str array
        Names of the features.
    truth : Truth
        Ground truth.
    """

    scans: pd.DataFrame
    features: np.ndarray
    feature_names: np.ndarray
    truth: Truth

    def __repr__(self) -> str:
        return one_line("Simulation", self._counts())

    def _counts(self) -> dict[str, int]:
        counts = {"scans": len(self.scans), "people": self.scans["participant_id"].nunique()}
        return counts | {"scanners": self.scans["scanner"].nunique(), "features": len(self.feature_names)}

    def _repr_html_(self) -> str:
        return make_card("Simulated study", self._counts(), {"Scans": self.scans.set_index("scan_id")})

    def write(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write ``scans.csv``, ``features.npy``, ``feature_names.txt`` and ``truth.npz``.

        ``truth.npz`` contains ``mean``, ``noise_ratio``, ``bias_ratio``, ``gain``, ``hyper`` (family × (eta, omega)),
        ``scales/<family>`` and ``effects/<group>``, with their labels in ``scanner``, ``family`` and ``levels/<group>``; of
        a longitudinal study ``slope_correlation``; and ``feature_noise``, if it is simulated. It contains no pickled
        objects.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        InputError
            One of the files exists and ``overwrite`` is False, or `folder` is a file.
        """
        folder = Path(folder)
        names = ("scans.csv", "features.npy", "feature_names.txt", "truth.npz")
        existing = [name for name in names if (folder / name).exists()]
        if folder.exists() and not folder.is_dir():
            raise InputError(
                "The simulation needs a folder to write to.",
                got=f"the file {folder}",
                expected="a folder, new or existing",
                do="choose another folder",
            )
        if existing and not overwrite:
            raise InputError(
                "The folder already holds a simulation.",
                got=f"{shorten(existing)} in {folder}",
                expected="a folder without these files",
                do="choose another folder, or set overwrite",
            )
        folder.mkdir(parents=True, exist_ok=True)
        self.scans.to_csv(folder / "scans.csv", index=False, lineterminator="\n")
        np.save(folder / "features.npy", self.features, allow_pickle=False)
        (folder / "feature_names.txt").write_text("".join(f"{name}\n" for name in self.feature_names), encoding="utf-8")
        truth, effects = self.truth, {**self.truth.effects, **self.truth.factors}
        arrays = {
            "mean": truth.mean,
            "noise_ratio": truth.noise_ratio.to_numpy(),
            "bias_ratio": truth.bias_ratio.to_numpy(),
            "gain": truth.gain.to_numpy(),
            "scanner": truth.noise_ratio.index.to_numpy(dtype=str),
            "hyper": truth.hyper.to_numpy(),
            "family": truth.hyper.index.to_numpy(dtype=str),
            **{f"scales/{family}": scale for family, scale in truth.scales.items()},
            **{f"effects/{name}": table.to_numpy() for name, table in effects.items()},
            **{f"levels/{name}": table.index.to_numpy(dtype=str) for name, table in effects.items()},
            **({} if truth.slope_correlation is None else {"slope_correlation": np.array(truth.slope_correlation)}),
            **({} if truth.feature_noise is None else {"feature_noise": truth.feature_noise.to_numpy()}),
        }
        np.savez(folder / "truth.npz", allow_pickle=False, **arrays)
        return folder


def simulate_srpbs(
    n_features: int = 1000,
    seed: int = 0,
    *,
    scale_log_sd: float = 0.3,
    sampling_bias: bool = True,
    noise_ratio_log_sd: float = 0.0,
    bias_ratio_log_sd: float = 0.0,
    gain_log_sd: float = 0.0,
    feature_noise_log_sd: float = 0.0,
    travelers: Literal["published", "hub-and-spoke"] = "published",
    without_travelers: Sequence[str] | str = (),
    tail_df: float | None = None,
    sizes: Mapping[str, float] | None = None,
    protocol: Mapping[str, float] | None = None,
    dtype: Literal["float32", "float64"] = "float32",
) -> Simulation:
    """Simulate the SRPBS study: 1,216 scans of 814 people on 12 scanners.

    The same arguments give the same values. A simulation of fewer features equals the first features of a larger one.

    Parameters
    ----------
    n_features : int
        Number of features. If it is R(R-1)/2, they are named as edges between R regions, the lower triangle row by row.
    seed : int
        Seed of all random streams.
    scale_log_sd : float
        Spread omega of the log-scales over features: ``log tau ~ Normal(eta, scale_log_sd²)`` for every family
        and for the noise, with eta such that the root mean square of tau is that in `RMS`.
    sampling_bias : bool
        If False, the cohort is one population: sampling effects and their scales are 0.
    noise_ratio_log_sd : float
        Sd over scanners of the log noise-variance ratio.
    bias_ratio_log_sd : float
        Sd over scanners of the log bias-variance ratio. Not together with `protocol`.
    gain_log_sd : float
        Sd over scanners of the log gain, which multiplies sampling, disorder and participant effects.
    feature_noise_log_sd : float
        Sd over features of the log factor of a scanner's noise sd, in each feature around that of the noise ratio.
    travelers : {"published", "hub-and-spoke"}
        Nine men on every scanner, or thirty people with one scan on the hub ATT and one on each of two other scanners.
    without_travelers : str or sequence of str
        Scanners without travelers; they must have people of the cohort.
    tail_df : float, optional
        Degrees of freedom (above 2) of Student-t noise with the same variance; default: Gaussian noise.
    sizes : mapping, optional
        Family -> root mean square of its scale, in place of that in `RMS`.
    protocol : mapping, optional
        Protocol factor -> root mean square of its scale, such as `PROTOCOL_RMS`. Measurement bias is then the sum of the
        effects of these factors: any of ``phase_encoding``, ``manufacturer``, ``coil``, ``scanner_model``, and
        ``scanner`` for the residual.
    dtype : {"float32", "float64"}
        Type of the features.

    Returns
    -------
    Simulation

    Raises
    ------
    InputError
        An option is not valid.
    """
    excluded = (without_travelers,) if isinstance(without_travelers, str) else tuple(without_travelers)
    spreads = {
        "scale_log_sd": scale_log_sd, "noise_ratio_log_sd": noise_ratio_log_sd, "bias_ratio_log_sd": bias_ratio_log_sd,
        "gain_log_sd": gain_log_sd, "feature_noise_log_sd": feature_noise_log_sd,
    }  # fmt: skip
    designs, unknown = ("published", "hub-and-spoke"), [name for name in excluded if name not in srpbs.COHORT]
    has_variance, cohort_scanners = tail_df is None or 2 < tail_df < np.inf, ", ".join(srpbs.COHORT)
    refuse_impossible(
        [
            *common_checks(n_features, seed, dtype, spreads),
            Check(travelers in designs, "travelers", travelers, "'published' or 'hub-and-spoke'"),
            Check(has_variance, "tail_df", tail_df, "a number above 2, so that the noise has a variance"),
            Check(
                not unknown, "without_travelers", shorten(unknown), f"scanners with people of the cohort: {cohort_scanners}"
            ),
        ]
    )
    if protocol and bias_ratio_log_sd:
        raise InputError(
            "With protocol factors, measurement bias has the same variance on all scanners.",
            got=f"protocol and {bias_ratio_log_sd=}",
            expected="only one of the two options",
            do="omit one of them",
        )
    for option, given, known in (("sizes", sizes, RMS), ("protocol", protocol, PROTOCOL_RMS)):
        if unusable := {name: size for name, size in (given or {}).items() if name not in known or not size > 0}:
            raise InputError(
                "These sizes cannot be used.",
                got=str(unusable),
                expected=f"numbers above 0 for any of {shorten(known, 9)}",
                do=f"correct {option}",
            )
    streams = {name: np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(i,))) for i, name in enumerate(STREAMS)}
    if travelers == "published":
        traveling = srpbs.travelers_published(streams["traveler_people"])
        is_kept = ~traveling["scanner"].isin(excluded).to_numpy()
    else:
        traveling = srpbs.travelers_hub_and_spoke(streams["traveler_people"], excluded)
        is_kept = np.ones(len(traveling), bool)
    cohort = srpbs.cohort(streams["cohort_people"])

    names = _feature_names(n_features)
    truth = draw_truth(
        streams,
        names,
        traveling["participant_id"].unique(),
        scale_log_sd,
        sampling_bias,
        noise_ratio_log_sd,
        bias_ratio_log_sd,
        gain_log_sd,
        feature_noise_log_sd,
        {**RMS, **(sizes or {})},
        protocol or {},
    )
    features = np.empty((is_kept.sum() + len(cohort), n_features), dtype)
    groups = [
        ("traveler", traveling, is_kept, features[: is_kept.sum()]),
        ("cohort", cohort, np.ones(len(cohort), bool), features[is_kept.sum() :]),
    ]
    for group_name, scans, rows, out in groups:
        columns = {effect_group: _columns(truth, scans, effect_group) for effect_group in truth.effects}
        scanner = truth.noise_ratio.index.get_indexer(scans["scanner"])
        ratio, gain = np.sqrt(truth.noise_ratio.to_numpy()[scanner]), truth.gain.to_numpy()[scanner]
        for start in range(0, n_features, BLOCK):
            block = slice(start, min(start + BLOCK, n_features))
            # Features are the first axis: a stream is then consumed feature by feature, whatever the block size.
            values = _noise(streams, group_name, (block.stop - start, len(scans)), tail_df)
            values *= truth.scales["noise"][block, None] * ratio
            if truth.feature_noise is not None:
                values *= truth.feature_noise.to_numpy()[:, block].T[:, scanner]
            values += truth.mean[block, None]
            for effect_group, (effects, column) in columns.items():
                values += effects[block][:, column] * (1 if effect_group == "measurement" else gain)
            if group_name == "cohort":
                participant_effects = streams["cohort"].standard_normal(values.shape)
                values += truth.scales["participant"][block, None] * participant_effects * gain
            out[:, block] = values[:, rows].T
    scans = pd.concat([traveling[is_kept], cohort], ignore_index=True)
    return Simulation(scans, features, names, truth)


def scan_levels(scans: pd.DataFrame, group: str) -> pd.Series:
    """Return each scan's level of an effect group; a level without a row in the effects has the effect 0."""
    if group != "sampling":
        return scans[{"measurement": "scanner", "disorder": "diagnosis", "participant": "participant_id"}[group]]
    traveling = scans.groupby("participant_id")["scanner"].transform("nunique") > 1
    return (scans["site"] + "/" + scans["diagnosis"]).mask(traveling, "")


def _columns(truth: Truth, scans: pd.DataFrame, group: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the effects of a group, (feature, level + 1) with zeros in the last column, and the column of each scan."""
    table = truth.effects[group]
    effects = np.vstack([table.to_numpy(), np.zeros(table.shape[1])]).T
    return effects, table.index.get_indexer(scan_levels(scans, group))  # -1, the zeros, for scans without a level


def _noise(streams: dict[str, np.random.Generator], part: str, shape: tuple[int, int], tail_df: float | None) -> np.ndarray:
    """Draw noise of variance 1, Gaussian or Student-t."""
    noise = streams[f"{part}_noise"].standard_normal(shape)
    if tail_df is not None:
        noise *= np.sqrt((tail_df - 2) / streams[f"{part}_tails"].chisquare(tail_df, shape))
    return noise


def _feature_names(n: int) -> np.ndarray:
    """Return edge names, ``node_001/node_002``, if `n` is a number of pairs of nodes; otherwise ``feature_00001``."""
    nodes = (1 + isqrt(1 + 8 * n)) // 2
    if nodes * (nodes - 1) // 2 == n:
        return np.array([f"node_{a:03d}/node_{b:03d}" for b in range(2, nodes + 1) for a in range(1, b)])
    return np.array([f"feature_{i:05d}" for i in range(1, n + 1)])
