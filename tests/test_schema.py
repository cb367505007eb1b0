"""Schema of the results tree: runs write it, loading checks it, and the docs list it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import bayesharm
from bayesharm.results.schema import (
    DESIGN,
    EFFECTS,
    FEATURES_PER_FILE,
    GROUPS,
    SCALES,
    features_of_file,
    find_faults,
)

ROOT = Path(__file__).parents[1]


def test_a_run_has_what_is_declared_and_nothing_else(small_run):
    tree = bayesharm.load_posterior(small_run).tree
    assert find_faults(tree) == []
    for node in tree.subtree:
        path = node.path.strip("/")
        if not node.data_vars:
            continue
        (group,) = [group for group in GROUPS if group.matches(path)]
        declared = {variable.name: variable for variable in group.variables}
        assert {str(name) for name in node.data_vars} <= declared.keys()
        for name, array in node.data_vars.items():
            assert array.attrs.get("units", "") == declared[name].units
            assert array.attrs["description"] == declared[name].description


def test_missing_arrays_and_other_dimensions_are_named():
    scanner = {"scanner": ["a", "b"]}
    arrays = {variable.name: np.zeros(2) for variable in DESIGN.variables if not variable.optional}
    whole = DESIGN.dataset(arrays, scanner)
    assert DESIGN.find_faults(whole) == []
    assert DESIGN.find_faults(whole.drop_vars("n_single_scan")) == ["no design/n_single_scan"]
    turned = whole.assign(n_single_scan=(("other",), np.zeros(3)))
    assert DESIGN.find_faults(turned) == ["design/n_single_scan over other"]
    assert "no scales" in find_faults(xr.DataTree.from_dict({"/design": whole}))
    with pytest.raises(KeyError, match="n_single_scan"):
        DESIGN.dataset({name: value for name, value in arrays.items() if name != "n_single_scan"}, scanner)


def test_levels_take_the_place_of_their_dimension():
    arrays = {"mean": np.zeros((2, 3)), "sd": np.ones((2, 3)), "contraction": np.zeros(2), "n_scans": np.ones(2)}
    effects = EFFECTS.dataset(arrays, {"scanner": ["a", "b"]}, level="scanner")
    assert effects["mean"].dims == ("scanner", "feature") and effects["n_scans"].dims == ("scanner",)
    assert EFFECTS.matches("effects/measurement") and not EFFECTS.matches("effects") and not SCALES.matches("scale")


@pytest.mark.parametrize(
    ("file", "start"),
    [
        ("scales/mean/c/0/1", 1),
        ("scales/feature_scale/c/3", 3),
        ("effects/measurement/sd/c/0/2", 2),
        ("finite_population/probability_larger/c/0/0/1", 1),
        ("scales/feature/c/0", None),
        ("effects/measurement/contraction/c/0", None),
        ("hyper/eta/c/0/0/0", None),
        ("scales/mean/zarr.json", None),
    ],
)
def test_files_tell_their_features(file, start):
    expected = None if start is None else slice(start * FEATURES_PER_FILE, (start + 1) * FEATURES_PER_FILE)
    assert features_of_file(file) == expected


def test_the_page_on_run_folders_is_up_to_date():
    script = ROOT / "scripts" / "document_results.py"
    check = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert check.returncode == 0, check.stderr
