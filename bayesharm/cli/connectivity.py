"""The command ``connectivity``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from bayesharm.cli import options as opt
from bayesharm.cli.output import check_new_files

IMAGES_PANEL = "Images of fMRIPrep"

TimeSeriesArgument = Annotated[
    list[Path],
    opt.argument(
        "TIMESERIES",
        "Region time series: a .npz file with one array (volume × region) per scan, or files or folders with one scan per "
        "file: .npy, .tsv, .csv, .txt, .1D, .ptseries.nii. With --atlas-image, the folder of fMRIPrep.",
    ),
]
ConnectivityFileOption = Annotated[
    Path,
    opt.text(
        "--out",
        "FILE",
        "Connectivity of all scans: .npz, .zarr, .parquet, .csv, .tsv or .npy. An existing file is replaced.",
        opt.OUTPUT_PANEL,
    ),
]
MeasureOption = Annotated[
    Literal["correlation", "partial"],
    opt.choice("--measure", "Correlations, or partial correlations, which need more volumes than regions in every scan."),
]
FisherZOption = Annotated[
    bool,
    opt.flag(
        "--fisher-z",
        "Write Fisher z instead of r. Not needed for bayesharm: --transform fisher-z of 'fit' keeps the data in r.",
        opt.OUTPUT_PANEL,
    ),
]
LabelsOption = Annotated[
    Path | None,
    opt.text(
        "--labels",
        "FILE",
        "Names of the regions, for files that do not contain them: …_dseg.tsv with the columns index and name, or one name "
        "per line.",
    ),
]
MatchOption = Annotated[
    str | None,
    opt.text("--match", "GLOB", "Use only files with matching names, such as '*_atlas-Schaefer_*' (keep the quotes)."),
]
MinVolumesOption = Annotated[
    int,
    opt.number(
        "--min-volumes",
        "Fewest volumes that a scan must have after censoring. Shorter scans are an error, which names them.",
        4,
    ),
]
AtlasImageOption = Annotated[
    Path | None,
    opt.text(
        "--atlas-image",
        "FILE",
        "Label image of the regions, in the space of the images. The time series are extracted with nilearn.",
        IMAGES_PANEL,
    ),
]
ConfoundsOption = Annotated[
    Literal["simple", "scrubbing", "compcor", "ica_aroma", "none"],
    opt.choice("--confounds", "nilearn strategy for confound removal.", IMAGES_PANEL),
]


def connectivity(
    *,
    timeseries: TimeSeriesArgument,
    out: ConnectivityFileOption,
    measure: MeasureOption = "correlation",
    labels: LabelsOption = None,
    match: MatchOption = None,
    min_volumes: MinVolumesOption = 50,
    fisher_z: FisherZOption = False,
    atlas_image: AtlasImageOption = None,
    confounds: ConfoundsOption = "simple",
    quiet: opt.QuietOption = False,
) -> None:
    """Compute the functional connectivity of each scan from its region time series.

    Examples:

    $ bayesharm connectivity timeseries.npz --out connectivity.npz

    $ bayesharm connectivity xcp_d/ --match '*_atlas-4S156Parcels_*timeseries.tsv' \\
        --out connectivity.zarr

    $ bayesharm connectivity fmriprep/ --atlas-image atlas.nii.gz \\
        --labels atlas_dseg.tsv --confounds scrubbing --out connectivity.npz

    Regions are aligned by name. Edges of a region without a signal are missing.
    The command also writes two tables: NAME_volumes.csv with the volumes of each
    scan, and NAME_edges.csv with the regions of each edge (--edge-table).

    Then: [bold]bayesharm fit SCANS FILE --transform fisher-z --out RUN[/bold]
    """
    from bayesharm.data.timeseries.files import TABLES, WRITTEN, path_of_table

    inputs = {str(path): path for path in timeseries} | {"--labels": labels, "--atlas-image": atlas_image}
    check_new_files({"--out": out}, inputs, WRITTEN)
    from bayesharm.cli.progress_bar import ProgressBar
    from bayesharm.data.connectivity import connectivity as compute

    with ProgressBar(quiet) as progress:
        result = compute(
            timeseries, measure=measure, fisher_z=fisher_z, labels=labels, match=match, min_volumes=min_volumes,
            atlas_image=atlas_image, confounds=confounds, out=out, progress=progress,
        )  # fmt: skip
    for note in result.notes:
        typer.echo(f"Note: {note}", err=True)
    n_scans, n_edges = result.values.shape
    typer.echo(f"{n_scans:,} scans × {n_edges:,} edges of {len(result.regions):,} regions: {out}")
    typer.echo("Tables: " + ", ".join(str(path_of_table(out, name)) for name in TABLES))
