"""The list of planted bugs fits the code; ``make mutations`` plants them."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "scripts"))

from mutation_check import read_mutations, read_rows  # noqa: E402


def test_each_bug_can_be_planted_and_names_tests_that_exist():
    mutations = read_mutations()
    assert len({each.id for each in mutations}) == len(mutations) >= 30
    for each in mutations:
        each.applied_to((ROOT / each.file).read_text())
        for test in each.tests:
            path, _, name = test.partition("::")
            source = (ROOT / path).read_text()
            assert all(f" {part.partition('[')[0]}" in source for part in name.split("::") if part), test


def test_the_page_has_every_bug():
    assert list(read_rows()) == [each.id for each in read_mutations()]
