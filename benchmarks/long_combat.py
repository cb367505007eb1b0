"""Longitudinal ComBat of `bayesharm.baselines` against R: the mixed model of lme4, and package longCombat if installed.

    python benchmarks/long_combat.py [--features 50] [--out table.md]

Needs `Rscript` and the R package lme4; R_LIBS may name a library with longCombat. The table has the largest difference in a
simulated longitudinal study: of the noise sd and the covariance of random effects (relative), of random effects, scanner
means and harmonized data (in sd of the feature), and of the empirical Bayes estimates, which are made from the residuals of
lme4 (gamma*, delta*²), or by longCombat.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from recovery import publish

from bayesharm import load_dataset, simulate_longitudinal
from bayesharm.baselines import get_method
from bayesharm.baselines.long_combat import empirical_bayes
from bayesharm.data.dataset import Dataset

RANDOM = {"intercepts": ({}, "(1 | participant_id)"), "slopes": ({"slope": "years"}, "(1 + years | participant_id)")}
READ = """
folder <- commandArgs(TRUE)[1]; random <- commandArgs(TRUE)[2]
scans <- read.csv(file.path(folder, "scans.csv")); values <- read.csv(file.path(folder, "values.csv"))
write_rows <- function(rows, name) write.table(rows, file.path(folder, name), col.names = FALSE, row.names = FALSE)
"""
LMER = """
people <- unique(scans$participant_id); columns <- paste0("scanner", sort(unique(scans$scanner)))
formula <- as.formula(paste("y ~ 0 + scanner + baseline_age + diagnosis * years +", random))
seconds <- system.time(models <- lapply(values, function(y) lme4::lmer(
  formula, cbind(scans, y = y), control = lme4::lmerControl(optimizer = "bobyqa"))))[["elapsed"]]
collect <- function(what, name) write_rows(t(sapply(models, what)), name)
collect(function(model) c(sigma(model), as.matrix(lme4::VarCorr(model)[[1]])), "variance")
collect(function(model) lme4::fixef(model)[columns], "means")
collect(function(model) as.vector(as.matrix(lme4::ranef(model)[[1]][people, ])), "effects")
collect(residuals, "noise")
cat(seconds)
"""
PACKAGE = """
if (requireNamespace("longCombat", quietly = TRUE)) {
  found <- longCombat::longCombat(
    idvar = "participant_id", timevar = "years", batchvar = "scanner", features = names(values),
    formula = "baseline_age + diagnosis * years", ranef = random, data = cbind(scans, values), verbose = FALSE)
  write_rows(found$data_combat[, paste0(names(values), ".combat")], "harmonized")
  write_rows(found$delta2starhat, "delta2")
}
"""


def compare(dataset: Dataset, kind: str) -> dict[str, object]:
    """Fit longitudinal ComBat here and in R, and return the largest differences."""
    options, random = RANDOM[kind]
    values = dataset.features.read(0, dataset.features.n_features)
    started = time.perf_counter()
    fitted = get_method("longcombat", **options).fit(dataset, ["baseline_age", "diagnosis:years"])
    seconds = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset.scans.to_csv(folder / "scans.csv", index=False)
        pd.DataFrame(values, columns=[f"f{k}" for k in range(values.shape[1])]).to_csv(folder / "values.csv", index=False)
        r_seconds = float(run_r(READ + LMER, folder, random))
        run_r(READ + PACKAGE, folder, random)
        found = {path.name: np.loadtxt(path) for path in folder.iterdir() if not path.suffix}
    sd, model, trajectory = values.std(axis=0), fitted.model, fitted.trajectory
    n_random = model.factor.shape[1]
    # R's random effects are at time 0 and per year, those here at the mean time and per sd.
    units = np.array([[1, -trajectory.center / trajectory.unit], [0, 1 / trajectory.unit]])[:n_random, :n_random]
    covariance = (units @ model.random_covariance @ units.T).reshape(len(sd), -1)
    expected = found["effects"].reshape(len(sd), n_random, -1).transpose(2, 0, 1)
    means, (noise_sd, *expected_covariance) = found["means"].T, found["variance"].T
    codes = fitted.scale.index.get_indexer(dataset.scans["scanner"])
    standardized = (found["noise"] + (means - fitted.weights @ means)[codes].T) / noise_sd[:, None]
    gamma, delta2 = empirical_bayes(standardized.T, codes)
    size = np.abs(expected_covariance).max(axis=1)[:, None]
    differences = {
        "noise sd": model.noise_sd / noise_sd - 1,
        "covariance": (covariance.T - expected_covariance) / size,
        "random effects": (fitted.random_effects @ units.T - expected) / sd[:, None],
        "scanner means": (model.coefficients[: len(means)] - means) / sd,
        "gamma*": fitted.additive.to_numpy() / model.noise_sd - gamma,
        "delta*²": fitted.scale.to_numpy() ** 2 - delta2,
    }
    if "delta2" in found:
        differences["delta*², longCombat"] = fitted.scale.to_numpy() ** 2 - found["delta2"]
        differences["harmonized, longCombat"] = (fitted.apply(dataset).values - found["harmonized"]) / sd
    row = {name: f"{np.abs(values).max():.0e}" for name, values in differences.items()}
    return {"random": kind} | row | {"fit, s": round(seconds, 1), "lme4, s": round(r_seconds, 1)}


def run_r(code: str, folder: Path, random: str) -> str:
    """Run R code with a folder and a formula as arguments, and return its output."""
    command = ["Rscript", "-e", code, str(folder), random]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=50)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    study = simulate_longitudinal(options.features, seed=1, noise_ratio_log_sd=0.5)
    dataset = load_dataset(study.scans, study.features)
    versions = run_r('cat(R.version.string, "; lme4 ", as.character(packageVersion("lme4")), sep = "")', Path(), "")
    table = pd.DataFrame([compare(dataset, kind) for kind in RANDOM])
    publish(table, f"`simulate_longitudinal({options.features}, seed=1, noise_ratio_log_sd=0.5)`; {versions}", options.out)


if __name__ == "__main__":
    main()
