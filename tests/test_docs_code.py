"""Code on the pages runs as it stands: shell and Python blocks, in order, in a small study.

Fits end before sampling: everything up to it is real, and the result is the run of `small_run` where it is of the same
study and model, and otherwise a posterior made by hand. Tutorials run when the site is built, the pages of `benchmarks/` on
real data in `test_example_pages.py` and `test_rpn.py`, and `other_tools.md` in `test_readers_page.py`.
"""

import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from bids_trees import write_dataset
from posteriors import complete, make_learned
from typer.testing import CliRunner

import bayesharm
from bayesharm.cli.app import app
from bayesharm.cli.bids_app import to_command

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs/*.md", "docs/how-to/*.md", "docs/explanation/*.md", "docs/reference/*.md", "models/*/card.md")
NOT_TESTED = {"needs a GPU", "needs SLURM"}
# Commands and functions that take long, or need other data: what runs them, in the same form.
ELSEWHERE = {
    "bayesharm populations run/": "test_population_structure.py",
    "bayesharm compare run/ other/": "test_model_comparison.py",
    "bayesharm evaluate": "test_evaluate.py",
    "bayesharm.cross_validate(": "test_evaluate.py",
    "bayesharm connectivity fmriprep/": "test_fmriprep.py",
    "bayesharm scans bids/ --out scans.tsv --scanner-by session": "test_bids.py",
    "bayesharm bids/ out/ group": "test_bids_app.py",
    "bayesharm.BayesHarmonizer(": "test_estimator.py",
    "bayesharm fit scans.csv features.npy --likelihood student-t": "test_student_t.py",
    "bayesharm simulate --edges 500": "test_check.py",
    "bayesharm check study/scans.csv study/features.npy": "test_check.py",
    "bayesharm harmonize run/ new_scans.csv": "test_cli.py",
    "bayesharm models check": "test_models_command.py",
}
BLOCK = re.compile(
    r"^```(?P<language>python|console|bash)\n(?P<fenced>[\s\S]*?)^```\n"
    r"|(?P<indented>(?:^ {4}bayesharm .*\n(?:^ {5,}\S.*\n)*)+)",
    re.MULTILINE,
)
MARK = re.compile(r"\s*\*Not tested: (.*?)\.\*")


class Block(NamedTuple):
    """Python, or lines of a shell; `mark` is the reason why it does not run here."""

    is_python: bool
    text: str
    mark: str
    output: str


def read_blocks(page: Path) -> list[Block]:
    """Return the blocks of a page in order."""
    text, found = page.read_text(), []
    for match in BLOCK.finditer(text):
        after = text[match.end() :]
        mark, output = MARK.match(after), re.match(r"\n```text\n(.*?)```", after, re.DOTALL)
        code = match["fenced"] or match["indented"]
        found.append(Block(match["language"] == "python", code, mark[1] if mark else "", output[1] if output else ""))
    return found


def read_commands(block: str) -> list[str]:
    """Return the commands of a block; a synopsis, with options in brackets, has none."""
    lines = re.findall(r"^\s*(?:\$ )?(bayesharm .*)$", re.sub(r"\\\n\s*", "", block), re.MULTILINE)
    return [] if "[" in block else lines


def list_pages() -> Iterator[Path]:
    for page in [ROOT / "README.md", *(page for folder in FOLDERS for page in sorted(ROOT.glob(folder)))]:
        is_notebook = page.read_text().startswith("---\nfile_format: mystnb")
        if page.name != "other_tools.md" and not is_notebook and read_blocks(page):
            yield page


PAGES = [*list_pages()]


@pytest.fixture(scope="module")
def study(small_study, tmp_path_factory) -> Path:
    """Everything that the pages name, in one folder."""
    root = shutil.copytree(small_study, tmp_path_factory.mktemp("pages") / "study")
    scans = pd.read_csv(root / "scans.csv")
    scans["sex"] = np.where(scans["participant_id"].str[-1].isin(list("02468")), "F", "M")
    scans["relative_noise"] = 1 + scans.index % 3 / 5
    scans.to_csv(root / "scans.csv", index=False)
    values = np.load(root / "features.npy")
    features = pd.DataFrame(values).add_prefix("thickness_").assign(scan_id=scans["scan_id"])
    features.iloc[:3, 0] = np.nan
    features.to_csv(root / "features.csv", index=False)
    new = pd.concat([scans.head(6), scans[scans["scanner"] == "alpha"].head(8).assign(scanner="new")])
    new = new.assign(scan_id=[f"new{k}" for k in range(len(new))], diagnosis="HC")
    new.to_csv(root / "new_scans.csv", index=False)
    np.save(
        root / "new_features.npy", values[new.index] + np.random.default_rng(3).normal(0, 0.5, (len(new), values.shape[1]))
    )
    regions = [f"r{k}" for k in range(15)]
    pairs = [(a, b) for k, a in enumerate(regions) for b in regions[:k]][: values.shape[1]]
    names = [f"feature_{k:04d}" for k in range(values.shape[1])]
    pd.DataFrame(pairs, columns=["node_a", "node_b"]).assign(feature=names).to_csv(root / "edges.csv", index=False)
    pd.DataFrame({"region": regions, "network": ["visual", "default", "limbic"] * 5}).to_csv(
        root / "networks.csv", index=False
    )
    series = {scan: np.random.default_rng(k).normal(size=(60, 4)) for k, scan in enumerate(scans["scan_id"])}
    np.savez(root / "timeseries.npz", **series, regions=["V1", "M1", "PCC", "insula"])
    write_dataset(root / "bids")
    return root


@pytest.fixture
def short_fits(small_run, monkeypatch) -> None:
    """Put a posterior that is there already in place of the samplers' results."""
    import bayesharm.fitting.assembly as assembly
    import bayesharm.fitting.scheduler as scheduler

    ready = bayesharm.load_posterior(small_run)

    def assemble(dataset, design, hyper, results, manifest, *_):
        if design.spec == ready.spec and manifest["features"] == ready.run["fingerprint"]:
            return ready
        made = complete(make_learned(dataset, design.spec))
        made.tree["scales"]["reason"] = xr.zeros_like(made.scales["converged"], int)
        made.tree["hyper"].attrs = {**ready.hyper.attrs, **made.hyper.attrs}
        own = {"spec": made.run["spec"], "notes": made.run["notes"], "transform": dataset.features.transform}
        return replace(made, run=ready.run | own)

    monkeypatch.setattr(scheduler, "fit_features", lambda *_: (None, None))
    monkeypatch.setattr(assembly, "assemble_posterior", assemble)


def run_command(line: str, output: str) -> None:
    """Run a command, whose `--out` may be that of another example; an error is what the page shows."""
    names = {command.name or command.callback.__name__ for command in app.registered_commands} | {"models"}
    arguments = to_command(shlex.split(line, comments=True)[1:], names)
    if "--out" in arguments:
        out = Path(arguments[arguments.index("--out") + 1])
        for each in (out, out.with_suffix(".json")):
            shutil.rmtree(each) if each.is_dir() else each.unlink(missing_ok=True)
    result = CliRunner().invoke(app, arguments)
    said = f"{result.output}\n{getattr(result, 'stderr', '')}"
    if output.startswith("Error"):
        assert result.exit_code == 2 and all(each in said for each in output.splitlines()[:-1]), said
    else:
        assert result.exit_code == 0, (line, said, result.exception)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_code_runs(page, study, small_run, short_fits, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(shutil.copytree(study, tmp_path / "study"))
    shutil.copytree(small_run, "run")
    blocks = [block for block in read_blocks(page) if not block.mark]
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks:
        if block.is_python:
            if 'out="run"' in block.text:
                shutil.rmtree("run")
            if not any(each in block.text for each in ELSEWHERE):
                exec(compile(block.text, str(page), "exec"), names)
            continue
        for line in read_commands(block.text):
            if not any(line.startswith(each) for each in ELSEWHERE):
                run_command(line, block.output)


def test_few_blocks_do_not_run_and_say_why():
    marks = [block.mark for page in PAGES for block in read_blocks(page) if block.mark]
    assert sorted(marks) == sorted(NOT_TESTED)
    text = "\n".join(block.text for page in PAGES for block in read_blocks(page))
    for code, test in ELSEWHERE.items():
        assert code in text and (ROOT / "tests" / test).exists()
