"""Methods of other libraries, run by `bayesharm.baselines` in the environment that `make comparators` makes.

    python run_comparator.py fit LIBRARY FOLDER
    python run_comparator.py apply LIBRARY FOLDER NEW.npz CORRECTED.npz [NEW.npz CORRECTED.npz …]

`fit` reads ``train.npz`` of the folder: `values` (scan, feature), `scanner` (scan,) numbers from 0, `covariates` (scan,
column), and for mixed models `participant` and `population` (scan,), -1 where there is none, and `jobs`. It writes
``fitted.npz``: `bias` (scanner, feature) in the features' units, its `sd`, `warnings`; and the state that `apply` needs.
If the library raises an error, the last line of the error stream is its message and the exit code is 3.
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

FAILED = 3
MOST_WARNINGS = 3

Arrays = Mapping[str, np.ndarray]


def fit_neurocombat(data: Arrays) -> tuple[np.ndarray, Any]:
    from neuroCombat import neuroCombat

    names = [f"x{k}" for k in range(data["covariates"].shape[1])]
    table = pd.DataFrame(data["covariates"], columns=names).assign(scanner=_labels(data))
    found = neuroCombat(data["values"].T, table, batch_col="scanner", continuous_cols=names)["estimates"]
    return found["gamma.star"] * np.sqrt(found["var.pooled"]).ravel(), found


def apply_neurocombat(found: Any, new: Arrays) -> np.ndarray:
    from neuroCombat import neuroCombatFromTraining

    return neuroCombatFromTraining(new["values"].T, _labels(new), found)["data"].T


def _labels(data: Arrays) -> list[str]:
    """Scanners as text, which this library compares, in the order of their numbers."""
    return [f"{number:08d}" for number in data["scanner"]]


def fit_neuroharmonize(data: Arrays) -> tuple[np.ndarray, Any]:
    from neuroHarmonize import harmonizationLearn

    table = pd.DataFrame(data["covariates"]).assign(SITE=data["scanner"])
    found, _ = harmonizationLearn(data["values"], table)
    return found["gamma_star"] * np.sqrt(found["var_pooled"]).ravel(), found


def apply_neuroharmonize(found: Any, new: Arrays) -> np.ndarray:
    """It needs a scan of every training scanner: an empty one of each is put below, and taken away again."""
    from neuroHarmonize import harmonizationApply

    n, n_scanners = len(new["scanner"]), len(found["SITE_labels"])
    values, covariates = (np.pad(new[name], [(0, n_scanners), (0, 0)]) for name in ("values", "covariates"))
    table = pd.DataFrame(covariates).assign(SITE=np.r_[new["scanner"], found["SITE_labels"]])
    return harmonizationApply(values, table, found)[:n]


def fit_combatlearn(data: Arrays) -> tuple[np.ndarray, Any]:
    from combatlearn import ComBat

    combat = ComBat(**_for_combatlearn(data), method="fortin").fit(pd.DataFrame(data["values"]))
    model = combat._model
    return model._gamma_star * np.sqrt(model._pooled_var.to_numpy()), combat


def apply_combatlearn(combat: Any, new: Arrays) -> np.ndarray:
    return combat.set_params(**_for_combatlearn(new)).transform(pd.DataFrame(new["values"])).to_numpy()


def _for_combatlearn(data: Arrays) -> dict[str, Any]:
    covariates = pd.DataFrame(data["covariates"]) if data["covariates"].shape[1] else None
    return {"batch": pd.Series(data["scanner"]), "continuous_covariates": covariates}


Fit = Callable[[Arrays], tuple[np.ndarray, Any]]
COMBATS: dict[str, tuple[Fit, Callable[[Any, Arrays], np.ndarray]]] = {
    "neuroCombat": (fit_neurocombat, apply_neurocombat),
    "neuroHarmonize": (fit_neuroharmonize, apply_neuroharmonize),
    "combatlearn": (fit_combatlearn, apply_combatlearn),
}


def fit(library: str, folder: Path) -> None:
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
    said = dict.fromkeys(str(one.message) for one in caught if issubclass(one.category, UserWarning))
    np.savez(folder / "fitted.npz", bias=bias, sd=sd, warnings=np.array(list(said)[:MOST_WARNINGS], dtype=str))


def apply(library: str, folder: Path, files: list[str]) -> None:
    state = pickle.loads((folder / "state.pkl").read_bytes())
    for source, target in zip(files[::2], files[1::2], strict=True):
        with np.load(source) as file:
            new = dict(file)
        np.savez(target, values=COMBATS[library][1](state, new))


def main() -> None:
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
