"""What a run keeps of its scans: enough to learn from new scans without the old ones.

Given the scales, all that a fit takes from its scans are sums of products
(:mod:`bayesharm.likelihood.moments`). They are kept with the
kinds of scans there were, one row for scans that are alike; people scanned once are nameless there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayesharm.io.tables import to_labels
from bayesharm.likelihood.layout import Layout, Plan, make_plan
from bayesharm.likelihood.moments import Moments
from bayesharm.model.covariates import Covariate
from bayesharm.model.design import Design
from bayesharm.model.spec import ModelSpec

NAMELESS = "nameless person {}"


@dataclass(frozen=True, eq=False)
class SufficientStatistics:
    """Sums of products of the scans of a study.

    Attributes
    ----------
    kinds : DataFrame
        A table of scans, one row for each kind.
    design : Design
        Of the kinds: its columns, scales and noise classes are those of the study, its scans are not.
    layout : Layout
    size : (class,) int array
        Numbers of scans.
    moments : Moments
        Of the standardized features.
    """

    kinds: pd.DataFrame
    design: Design
    layout: Layout
    size: np.ndarray
    moments: Moments

    @property
    def count(self) -> np.ndarray:
        """Number of scans of each column, (column,): indicators' sums of squares."""
        dense = np.diag(self.layout.dense_gram.sum(0))
        own = np.bincount(self.layout.eliminated.columns, self.layout.eliminated_gram)
        return np.concatenate([dense, own]).round().astype(int)

    @property
    def plan(self) -> Plan:
        """The design in the order that the likelihood works."""
        return make_plan(self.design, self.layout)._replace(size=self.size.astype(np.int32))


def unique_scan_patterns(used: pd.DataFrame, spec: ModelSpec) -> pd.DataFrame:
    """One row for scans that are alike in all but covariates; two where a person was scanned alike more often than once."""
    by = {family.grouping for family in spec.families}
    wanted = {"participant_id": True, "scanner": True, "site": "population" in by}
    wanted |= {"diagnosis": bool(by & {"diagnosis", "population"})} | {family.grouping: True for family in spec.factors}
    names = [name for name, is_used in wanted.items() if is_used and name in used]
    kinds = pd.DataFrame({name: to_labels(used[name])[0].astype(object) for name in names})
    if "traveling" in used:
        kinds["traveling"] = used["traveling"].to_numpy(bool)
        names.append("traveling")
    once = ~kinds.participant_id.duplicated(keep=False)
    kinds.loc[once, "participant_id"] = ""
    again = kinds.groupby(names, dropna=False).cumcount()
    kinds = kinds[(again < 2) & ~(once & (again > 0))].reset_index(drop=True)
    nameless = np.flatnonzero(kinds.participant_id == "")
    kinds.loc[nameless, "participant_id"] = [NAMELESS.format(k) for k in range(len(nameless))]
    return kinds


def with_covariates(kinds: pd.DataFrame, covariates: tuple[Covariate, ...]) -> pd.DataFrame:
    """The kinds as a table of scans; with values that any scan could have, since columns do not depend on them."""
    kinds = kinds.assign(scan_id=np.arange(len(kinds)).astype(str))
    return kinds.assign(**{each.name: each.mean if each.category is None else each.categories[0] for each in covariates})
