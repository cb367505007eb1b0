"""Write ``docs/reference/run_folder.md``: the results tree of a run, as ``bayesharm/results/schema.py`` declares it.

python scripts/document_results.py [--check]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from textwrap import fill

from bayesharm.results.schema import GROUPS, LEVEL, Group

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "run_folder.md"
HEAD = """\
# The run folder

<!-- Made by scripts/document_results.py from bayesharm/results/schema.py: change it there. -->

`bayesharm fit` writes a run folder:

- `run.json`: the model with its priors, seed, settings, versions of the libraries, the fingerprint
  of the features (sha256), dropped features with the reason, caveats (`notes`, and `findings` on
  the data), the [check](../how-to/check.md#json) of the study (`check`), the origin of the data and
  how it was read (`data`), the work of the sampler (`leapfrog`), and the sha256 of every file of
  the tree. It is written last: a folder without it is not a finished run. If it names a
  `transform` (`fisher-z`), the units of a feature below are those of the transform.
- `posterior.zarr`: the results, one labeled tree. Open it with `bayesharm.load_posterior("run")`,
  whose `tree` is an xarray `DataTree`, or with
  `xarray.open_datatree("run/posterior.zarr", engine="zarr", consolidated=False)`.
- `unfinished/`: checkpoints of a run that has not finished. The same command resumes it.

A run with a missing or changed file is refused, with the name of the file;
[`--repair`](../how-to/long_fits.md#damaged-runs) repairs it.

The groups that people use most are `/effects`, `/scales` and `/hyper`. Effects are contrasts: each
level minus the mean of the levels that share its scale. Disorder effects are relative to the
reference diagnosis. Covariate effects are per unit of a number, and relative to the first category
of text; those of a formula are per unit of each column.

`level` stands for the levels of a family: `scanner`, `population` (named `site/diagnosis`),
`diagnosis`, `participant`, `covariate`, or those of a protocol factor. Labels are for people;
coordinates hold their parts: along `family` also `term` (the family of the model) and `group` (the
diagnosis, or empty), along `population` also `site` and `diagnosis`. [Notation](notation.md)
explains all symbols.
"""


def render(group: Group) -> str:
    """Return a section on a group."""
    heading = f"## `/{group.path.replace('*', '<family>')}`" + ("" if group.required else " (not in every run)")
    text = f"{group.description[0].upper()}{group.description[1:]}."
    rows = ["| array | dimensions | units | description |", "|---|---|---|---|"]
    for variable in group.variables:
        dims = " × ".join("level" if dim == LEVEL else dim for dim in variable.dims)
        optional = " (if there are any)" if variable.optional else ""
        rows.append(f"| `{variable.name}` | {dims} | {variable.units} | {variable.description}{optional} |")
    return "\n".join([heading, "", fill(text, 100), "", *rows])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail where the page is not up to date")
    options = parser.parse_args()
    page = "\n".join([HEAD, *("\n" + render(group) for group in GROUPS)]).replace("\n\n\n", "\n\n") + "\n"
    if not options.check:
        PAGE.write_text(page, encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page:
        return 0
    print("docs/reference/run_folder.md is not up to date.\n  do this: python scripts/document_results.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
