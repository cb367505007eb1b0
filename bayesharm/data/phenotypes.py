"""The phenotypic tables of ABIDE (Preprocessed Connectomes Project) as scans tables."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bayesharm.io.tables import TableSource, read_table, table_columns

REQUIRED = ("FILE_ID", "SITE_ID", "SUB_ID")
NO_SCAN = "no_filename"
MISSING = -9999
DIAGNOSES, SEXES = {1: "ASD", 2: "HC"}, {1: "M", 2: "F"}


def read_phenotypes(source: TableSource) -> tuple[TableSource, list[str]]:
    """Add the columns of a scans table to a phenotypic table of ABIDE; other tables are returned as they are.

    `FILE_ID`, `SUB_ID` and `SITE_ID` become scan_id, participant_id and scanner; `DX_GROUP` 1 and 2 become the diagnoses
    ASD and HC, `SEX` 1 and 2 become sex M and F, and `AGE_AT_SCAN` becomes age. People without a scan (`no_filename`) are
    left out, and -9999 is a missing value. Columns that the table has already stay as they are.

    Returns
    -------
    table : path or DataFrame
    notes : list of str
        Sentences for the user.
    """
    header = table_columns(source, "the scans table")
    if not set(REQUIRED) <= set(header):
        return source, []
    frame = read_table(source, text=REQUIRED, what="the scans table")
    has_scan = frame["FILE_ID"].astype(str).str.strip() != NO_SCAN
    table = frame[has_scan].reset_index(drop=True)
    numeric = table.select_dtypes("number").columns
    table[numeric] = table[numeric].mask(table[numeric] == MISSING)
    new = {"scan_id": table["FILE_ID"], "participant_id": table["SUB_ID"], "scanner": table["SITE_ID"]}
    for name, column, codes in (("diagnosis", "DX_GROUP", DIAGNOSES), ("sex", "SEX", SEXES)):
        if column in table:
            new[name] = pd.to_numeric(table[column], errors="coerce").map(codes)
    if "AGE_AT_SCAN" in table:
        new["age"] = table["AGE_AT_SCAN"]
    table = table.assign(**{name: values for name, values in new.items() if name not in table})
    n_without = int(np.sum(~has_scan))
    note = "The scans table is a phenotypic table of ABIDE: FILE_ID is scan_id, SUB_ID participant_id, SITE_ID scanner"
    return table, [note + (f"; {n_without:,} people without a scan ({NO_SCAN}) were left out." if n_without else ".")]
