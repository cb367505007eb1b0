"""Cards in notebooks: they show the main numbers, escape all text, and stay small; the text of an object is one line."""

from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from posteriors import add_sources, make_posterior

import bayesharm
from bayesharm.notebook import MAX_ROWS, first_values, format_value, join_intervals, make_card

EVIL = "<script>alert('1')</script> \"&amp;\" שלום " + "x" * 300


class Checker(HTMLParser):
    """Parse a card: every tag is closed, and no tag comes from text."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.text, self.tags = [], [], set()

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(card: str) -> str:
    checker = Checker()
    checker.feed(card)
    assert not checker.open and "script" not in checker.tags
    return "\n".join(checker.text)


def evil_dataset() -> bayesharm.Dataset:
    scans = [f"s{i}" for i in range(6)]
    table = pd.DataFrame({"scan_id": scans, "participant_id": [1, 1, 2, 2, 3, 4], "scanner": [EVIL, "B"] * 3})
    return bayesharm.load_dataset(table, np.random.default_rng(0).normal(size=(6, 3)))


def harmonized() -> bayesharm.Harmonized:
    values = np.random.default_rng(0).normal(size=(40, 30))
    values[0, 0] = np.nan
    names = np.array([EVIL, *(f"f{i}" for i in range(29))])
    return bayesharm.Harmonized(np.arange(40).astype(str), names, values, np.abs(values), "measurement", (EVIL,))


SOURCES = add_sources(make_posterior(notes=[EVIL]))
RESULTS = {
    "Dataset": evil_dataset,
    "Posterior": lambda: make_posterior(notes=[EVIL]),
    "Harmonized": harmonized,
    "Prediction": lambda: bayesharm.Prediction(np.ones((3, 2)), np.ones((3, 2))),
    "Summary": lambda: bayesharm.summarize(SOURCES),
    "VarianceComponents": lambda: bayesharm.variance_components(SOURCES),
    "ScannerSimilarity": lambda: bayesharm.scanner_similarity(SOURCES),
    "PriorSensitivity": lambda: bayesharm.prior_sensitivity(SOURCES),
    "Simulation": lambda: bayesharm.simulate_srpbs(n_features=3, seed=1),
    "Connectivity": lambda: bayesharm.Connectivity(
        np.ones((2, 1)), np.array([EVIL]), np.array(["a", "b"]), np.array(["r", "s"]),
        pd.DataFrame({"scan_id": ["a", "b"], "n_volumes": [100, 200]}), (EVIL,),
    ),
    "Yamashita2019": lambda: bayesharm.Yamashita2019(
        {"measurement": pd.DataFrame(np.ones((2, 40)), [EVIL, "B"])}, pd.Series(np.ones(40)),
        pd.Series({"measurement": 0.5}), pd.DataFrame(),
    ),
    "ModelComparison": lambda: bayesharm.ModelComparison(
        {"runs": ["a", EVIL], "preview": True},
        pd.DataFrame({"difference": [3.0], "se": [1.0], "n": [20]}, index=pd.Index(["people"], name="left_out")),
        pd.DataFrame({"x": [1]}), pd.DataFrame({"x": [1]}), {}, (EVIL,),
    ),
    "Evaluation": lambda: bayesharm.Evaluation(
        pd.DataFrame({"value": [0.51], "se": [0.02]}, index=[EVIL]), pd.DataFrame({"seconds": [1.0]}), {"folds": 5}, (EVIL,)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RESULTS)
def test_every_result_shows_a_card_and_is_one_line_of_text(name):
    result = RESULTS[name]()
    card = result._repr_html_()
    text = read(card)
    assert text.strip() and len(card) < 100_000
    assert repr(result).startswith(f"<{name}") and "\n" not in repr(result) and len(repr(result)) < 160


def test_no_public_result_is_without_a_card():
    options = {"ModelSpec", "Settings", "BayesHarmonizer", "FeatureEstimates"}  # not results of their own
    classes = {name for name in bayesharm.__all__ if isinstance(getattr(bayesharm, name), type)}
    results = {name for name in classes - options if not issubclass(getattr(bayesharm, name), Exception)}
    assert all(hasattr(getattr(bayesharm, name), "_repr_html_") for name in results)
    assert results - RESULTS.keys() <= {"PopulationTest", "StudyCheck"}  # a StudyCheck is in test_check.py


def test_a_value_and_its_interval_share_a_cell():
    table = pd.DataFrame(
        {
            "bias": [0.5, np.nan],
            "bias_q05": [0.41, np.nan],
            "bias_q95": [0.6, np.nan],
            "value": [1.0, 2.0],
            "se": [0.1, np.nan],
        }
    )
    joined = join_intervals(table.assign(better=[-0.2, 0.3], better_se=[0.01, 0.02]))
    assert joined.to_numpy().tolist() == [
        ["0.5 (0.41 to 0.6)", "1 ± 0.1", "-0.2 ± 0.01"],
        ["", "2", "0.3 ± 0.02"],
    ]


@pytest.mark.parametrize(
    "value, text",
    [
        (True, "yes"),
        (np.int64(12345), "12,345"),
        (1234.5, "1,234"),
        (0.12345, "0.123"),
        (1e-9, "1e-09"),
        (np.nan, ""),
        ("a", "a"),
    ],
)
def test_cells_are_formatted(value, text):
    assert format_value(value) == text


def test_long_tables_are_cut_and_say_so():
    text = read(make_card("t", tables={"all": pd.DataFrame({"x": np.arange(1000)})}))
    assert "985 more rows" in text and str(MAX_ROWS) not in text.split()


def test_the_first_values_say_how_many_they_are():
    ((caption, table),) = first_values("Mean", np.ones((2, 9)), np.ones((2, 9))).items()
    assert caption.endswith("the first 2 scans and 5 features") and table.iloc[0, 0] == "1 ± 1"


def test_a_preview_is_marked_on_its_card():
    assert "PREVIEW" in read(RESULTS["ModelComparison"]()._repr_html_())
    assert "PREVIEW" in read(make_posterior(settings={"preview": True})._repr_html_())
