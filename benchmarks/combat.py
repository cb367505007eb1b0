"""One ComBat on one study, in an environment of its own; `comparators.py` runs it.

    python combat.py {neuroCombat,neuroHarmonize,combatlearn} STUDY OUT

The scanner is the batch, the diagnosis a covariate whose effect is kept. Reads ``scans.csv`` and ``features.npy`` of a
folder, writes what was subtracted from each scanner on average, (scanner, feature), to ``OUT.npy``, and prints the
seconds of the call alone.
"""

import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd


def main() -> None:
    tool, study, out = sys.argv[1:]
    scans, features = pd.read_csv(Path(study) / "scans.csv"), np.load(Path(study) / "features.npy")
    scanner, diagnosis = scans["scanner"].to_numpy(str), scans["diagnosis"].to_numpy(str)
    library = import_module(tool)
    started = time.perf_counter()
    if tool == "neuroCombat":
        covars = pd.DataFrame({"scanner": scanner, "diagnosis": diagnosis})
        kept = library.neuroCombat(features.T, covars, batch_col="scanner", categorical_cols=["diagnosis"])["data"].T
    elif tool == "neuroHarmonize":
        covars = pd.get_dummies(pd.Series(diagnosis), drop_first=True, dtype=float).assign(SITE=scanner)
        _, kept = library.harmonizationLearn(features, covars)
    else:
        combat = library.ComBat(batch=scanner, discrete_covariates=diagnosis, method="fortin")
        kept = np.asarray(combat.fit_transform(features))
    seconds = time.perf_counter() - started
    names = np.unique(scanner)
    np.save(out, np.stack([(features[scanner == name] - kept[scanner == name]).mean(0, float) for name in names]))
    print(seconds)


if __name__ == "__main__":
    main()
