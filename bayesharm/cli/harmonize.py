"""The command `harmonize`."""

from __future__ import annotations

import typer

from bayesharm.cli import input as inputs
from bayesharm.cli import options as opt
from bayesharm.cli import output as outputs


def harmonize(
    run: opt.Run,
    scans: opt.Scans,
    out: opt.MeanFile,
    features: opt.FeatureFile = None,
    select: opt.Select = None,
    sd: opt.SdFile = None,
    draws: opt.HarmonizedDraws = 0,
    draws_file: opt.DrawsFile = None,
    remove: opt.Remove = None,
    target: opt.Target = None,
    match_noise: opt.MatchNoise = False,
    new_scanners: opt.NewScannersOption = "error",
    inverse: opt.Inverse = False,
    seed: opt.Seed = 0,
    scan: opt.Scan = None,
    participant: opt.Participant = None,
    scanner: opt.Scanner = None,
    site: opt.Site = None,
    diagnosis: opt.Diagnosis = None,
    traveling: opt.Traveling = None,
    quiet: opt.Quiet = False,
) -> None:
    """Subtract from every scan the measurement bias of its scanner.

    Examples:

    $ bayesharm harmonize run/ scans.csv features.npy --out harmonized.npy \\
        --sd harmonized_sd.npy

    $ bayesharm harmonize run/ new_scans.csv --features 'thickness_*' \\
        --participant subject --out harmonized.csv

    $ bayesharm harmonize run/ scans.csv features.npy --out harmonized.npy \\
        --draws 20 --draws-file draws.npy

    Scans and people may be new; scanners and features must be those of the fit,
    but for --new-scanners. Rows, columns, labels, units and precision of the input are kept.
    """
    files = {"--out": out, "--sd": sd, "--draws-file": draws_file}
    outputs.check_new_files(files, {"RUN": run, "SCANS": scans, "FEATURES": features})
    outputs.check_together({"--draws": draws, "--draws-file": draws_file})
    from bayesharm.cli.progress_bar import ProgressBar
    from bayesharm.harmonization.harmonize import harmonize_to_files
    from bayesharm.results.posterior import load_posterior

    if new_scanners == "adapt":
        from bayesharm.algorithms.programs import cache_programs

        cache_programs()
    posterior = load_posterior(run)
    columns = inputs.column_mapping(
        scan_id=scan, participant_id=participant, scanner=scanner, site=site, diagnosis=diagnosis, traveling=traveling
    )
    dataset = inputs.read_dataset(scans, features, select, columns, check="apply")
    with ProgressBar(quiet) as progress:
        notes = harmonize_to_files(
            posterior, dataset, out, sd, draws_file, draws=draws, remove=remove, target=target, match_noise=match_noise,
            new_scanners=new_scanners, inverse=inverse, seed=seed, progress=progress,
        )  # fmt: skip
    for note in notes:
        typer.echo(f"Note: {note}", err=True)
    drawn = f"{draws} draw{'s' * (draws != 1)}"
    more = [f"{what}: {path}" for what, path in (("uncertainty", sd), (drawn, draws_file)) if path]
    n_scans = len(dataset.scans)
    typer.echo("; ".join([f"Harmonized {n_scans:,} scan{'s' * (n_scans != 1)}: {out}", *more]))
