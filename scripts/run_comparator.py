"""Harmonization methods of other libraries, run by `bayesharm.baselines` in the environment created by `make comparators`.

    python run_comparator.py fit LIBRARY FOLDER
    python run_comparator.py apply LIBRARY FOLDER NEW.npz CORRECTED.npz [NEW.npz CORRECTED.npz …]

`fit` reads ``train.npz`` in the folder: `values` (scan, feature), `scanner` (scan,) numbered from 0, and `covariates`
(scan, column); for mixed models also `participant` and `population` (scan,), with -1 for none, and `jobs`. It writes
``fitted.npz`` with `bias` (scanner, feature) in the units of the features, its `sd` and `warnings`, and the state for
`apply`. If the library raises an error, the exit code is 3 and the last line of standard error is the message.
"""

from __future__ import annotations

import pickle
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mixed_models
import numpy as np
import pandas as pd

FAILED = 3  # exit code if the library raised an error; see bayesharm.baselines.external_process
MAX_WARNINGS = 3  # warnings of the library that are passed on

Arrays = Mapping[str, np.ndarray]


def fit_neurocombat(data: Arrays) -> tuple[np.ndarray, Any]:
    """Return scanner effects (scanner, feature) in the units of the features, and the state for `apply_neurocombat`."""
    from neuroCombat import neuroCombat

    names = [f"x{k}" for k in range(data["covariates"].shape[1])]
    table = pd.DataFrame(data["covariates"], columns=names).assign(scanner=_labels(data))
    estimates = neuroCombat(data["values"].T, table, batch_col="scanner", continuous_cols=names)["estimates"]
    return estimates["gamma.star"] * np.sqrt(estimates["var.pooled"]).ravel(), estimates


def apply_neurocombat(estimates: Any, new: Arrays) -> np.ndarray:
    """Return corrected values (scan, feature); covariates of the new scans are not used."""
    from neuroCombat import neuroCombatFromTraining

    return neuroCombatFromTraining(new["values"].T, _labels(new), estimates)["data"].T


def _labels(data: Arrays) -> list[str]:
    """Return scanners as text that sorts by scanner number, as neuroCombat sorts and compares text."""
    return [f"{number:08d}" for number in data["scanner"]]


def fit_neuroharmonize(data: Arrays) -> tuple[np.ndarray, Any]:
    """Return scanner effects and the state, as `fit_neurocombat`."""
    from neuroHarmonize import harmonizationLearn

    table = pd.DataFrame(data["covariates"]).assign(SITE=data["scanner"])
    model, _ = harmonizationLearn(data["values"], table)
    return model["gamma_star"] * np.sqrt(model["var_pooled"]).ravel(), model


def apply_neuroharmonize(model: Any, new: Arrays) -> np.ndarray:
    """Return corrected values.

    neuroHarmonize needs a scan of every training scanner: scans of zeros are appended, and their results removed.
    """
    from neuroHarmonize import harmonizationApply

    n, n_scanners = len(new["scanner"]), len(model["SITE_labels"])
    values, covariates = (np.pad(new[name], [(0, n_scanners), (0, 0)]) for name in ("values", "covariates"))
    table = pd.DataFrame(covariates).assign(SITE=np.r_[new["scanner"], model["SITE_labels"]])
    return harmonizationApply(values, table, model)[:n]


def fit_combatlearn(data: Arrays) -> tuple[np.ndarray, Any]:
    """Return scanner effects and the state, as `fit_neurocombat`."""
    from combatlearn import ComBat

    combat = ComBat(**_combatlearn_arguments(data), method="fortin").fit(pd.DataFrame(data["values"]))
    model = combat._model
    return model._gamma_star * np.sqrt(model._pooled_var.to_numpy()), combat


def apply_combatlearn(combat: Any, new: Arrays) -> np.ndarray:
    """Return corrected values."""
    return combat.set_params(**_combatlearn_arguments(new)).transform(pd.DataFrame(new["values"])).to_numpy()


def _combatlearn_arguments(data: Arrays) -> dict[str, Any]:
    """Return the batch and the covariates as arguments of ComBat."""
    covariates = pd.DataFrame(data["covariates"]) if data["covariates"].shape[1] else None
    return {"batch": pd.Series(data["scanner"]), "continuous_covariates": covariates}


Fit = Callable[[Arrays], tuple[np.ndarray, Any]]
COMBATS: dict[str, tuple[Fit, Callable[[Any, Arrays], np.ndarray]]] = {
    "neuroCombat": (fit_neurocombat, apply_neurocombat),
    "neuroHarmonize": (fit_neuroharmonize, apply_neuroharmonize),
    "combatlearn": (fit_combatlearn, apply_combatlearn),
}


def fit(library: str, folder: Path) -> None:
    """Fit the library to ``train.npz`` and write ``fitted.npz``."""
    with np.load(folder / "train.npz") as file:
        data = dict(file)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if library in COMBATS:
            bias, state = COMBATS[library][0](data)
            sd = np.full_like(bias, np.nan)
            (folder / "state.pkl").write_bytes(pickle.dumps(state))
        else:
            bias, sd = mixed_models.fit_features(library, data)
    messages = dict.fromkeys(str(item.message) for item in caught if issubclass(item.category, UserWarning))
    np.savez(folder / "fitted.npz", bias=bias, sd=sd, warnings=np.array(list(messages)[:MAX_WARNINGS], dtype=str))


def apply(library: str, folder: Path, files: list[str]) -> None:
    """Correct the values of each input file and write them to the output file after it."""
    state = pickle.loads((folder / "state.pkl").read_bytes())  # noqa: S301, written by `fit` in the same private folder
    for source, target in zip(files[::2], files[1::2], strict=True):
        with np.load(source) as file:
            new = dict(file)
        np.savez(target, values=COMBATS[library][1](state, new))


def main() -> None:
    """Run the task on the command line; see the module docstring."""
    task, library, folder, *files = sys.argv[1:]
    try:
        fit(library, Path(folder)) if task == "fit" else apply(library, Path(folder), files)
    except ImportError:
        raise
    except Exception as error:
        print(f"{type(error).__name__}: {error}".replace("\n", " "), file=sys.stderr)
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
