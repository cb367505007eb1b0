"""The check of a model, on a small simulated study that suits it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayesharm.errors import listed
from bayesharm.model.catalog import load_model
from bayesharm.model.design import build_design
from bayesharm.model.spec import ModelSpec
from bayesharm.model.template import levels_of
from bayesharm.model_check.agreement import LIMIT, compare_densities, random_point
from bayesharm.model_check.suited_study import N_FEATURES, own_columns, random_features, suited_scans
from bayesharm.results.console import as_text, bullets, make_table

if TYPE_CHECKING:
    from rich.console import Group

N_POINTS = 2
ON_TAILS = (
    "With heavy tails there is no collapsed density: collapsed = explicit was compared under the Gaussian likelihood. Only "
    "PyMC = explicit has the heavy tails."
)


@dataclass(frozen=True, eq=False)
class ModelCheck:
    """A model, the study that it was checked on, and its densities.

    Attributes
    ----------
    spec : ModelSpec
    n_scans : int
        Scans of the simulated study in the model.
    families : DataFrame by family
        `by`; `levels`, their number in the simulated study.
    densities : DataFrame by values and densities
        `values` are complete, or some are missing; `points` and `difference` as from
        :func:`bayesharm.model_check.agreement.compare_densities`.
    remarks : tuple of str
        What has not been checked.
    """

    spec: ModelSpec
    n_scans: int
    families: pd.DataFrame
    densities: pd.DataFrame
    remarks: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether all densities agree."""
        return bool((self.densities.difference <= LIMIT).all())  # not if one is NaN

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        worst = f"the largest difference is {self.densities.difference.max():.1e}, the limit {LIMIT:.0e}"
        return f"The densities {'agree' if self.agrees else 'do not agree'}: {worst}."

    def __str__(self) -> str:
        return as_text(self)

    def __rich__(self) -> Group:
        return render_check(self)


def check_model(model: str | ModelSpec) -> ModelCheck:
    """Check a model: its file, and whether its densities agree.

    Nothing is sampled; the check takes about a quarter of a minute.

    Parameters
    ----------
    model : str or ModelSpec
        The name of a model, a folder with a ``model.toml``, or a specification.

    Raises
    ------
    ModelError
        The model does not exist, or is malformed; all problems at once.
    """
    spec = load_model(model) if isinstance(model, str) else model
    scans, rng = suited_scans(spec), np.random.default_rng(0)
    design = build_design(scans, spec)
    points = [random_point(design, N_FEATURES, rng) for _ in range(N_POINTS)]
    compared = {
        values: compare_densities(design, random_features(len(scans), rng, has_missing), points)
        for values, has_missing in (("complete", False), ("some missing", True))
    }
    n_levels = Counter(design.families.tolist())
    rows = [(family.name, levels_of(family), n_levels[family.name]) for family in spec.families]
    rows += [(family.slope_name, levels_of(family), n_levels[family.slope_name]) for family in spec.slopes]
    families = pd.DataFrame(rows, columns=["family", "by", "levels"]).set_index("family")
    densities = pd.concat(compared, names=["values"])
    return ModelCheck(spec, design.n_scans, families, densities, tuple(find_remarks(spec, families)))


def find_remarks(spec: ModelSpec, families: pd.DataFrame) -> list[str]:
    """Say in sentences what a check leaves out."""
    remarks = [
        f"The simulated study has no levels of {name}: this family was not checked."
        for name in families.index[families.levels == 0]
    ]
    if columns := own_columns(spec):
        remarks.append(
            f"The columns of the model ({listed(map(repr, columns))}) are simulated, not compared with your table. To see "
            "whether your table suits the model: bayesharm check SCANS --model FOLDER"
        )
    if spec.has_tails:
        remarks.append(ON_TAILS)
    if find_spec("pymc") is None:
        remarks.append("PyMC is not installed, and so its density was not compared: pip install 'bayesharm[pymc]'.")
    return remarks


def render_check(check: ModelCheck) -> Group:
    """Render the tables of a check, and its verdict."""
    from rich.console import Group
    from rich.text import Text

    study = make_table(
        "Families of effects",
        f"Levels: their number in a simulated study of {check.n_scans} scans, made for this model.",
        ["family", "by", "levels"],
    )
    for name, row in check.families.iterrows():
        study.add_row(str(name), row.by, str(row.levels))
    densities = make_table(
        "Log densities at random points",
        "Collapsed: the density that a fit samples, all effects integrated out. Explicit: the same model in NumPyro, with "
        "every effect; integrated over them where it is compared with the collapsed one. Difference: the largest over "
        "points, relative where log densities are above 1.",
        ["densities", "values", "points", "difference"],
    )
    for (values, name), row in check.densities.iterrows():
        densities.add_row(name, values, f"{row.points:.0f}", f"{row.difference:.1e}")
    return Group(
        Text.assemble((f"Model {check.spec.name}", "bold"), f"\n{check.spec.title}\n"),
        study,
        densities,
        bullets("Verdict", [check.verdict, *check.remarks]),
    )
