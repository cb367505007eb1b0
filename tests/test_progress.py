"""Progress of long work: lines with times, rates and memory, on standard error and in a log."""

import re

import pytest

from bayesharm.cli.progress_bar import ProgressBar
from bayesharm.errors import InputError


def test_lines_and_log_say_the_same_and_quiet_is_quiet(tmp_path, capsys):
    for quiet in (False, True):
        log = tmp_path / f"{quiet}.txt"
        log.write_text("kept\n")
        with ProgressBar(quiet, log) as progress:
            progress.say("reading")
            progress("features", 0, 640, "compiling")
            progress("features", 640, 640, "all converged")
        written = log.read_text().splitlines()
        assert written[0] == "kept" and len(written) == 4
        assert re.fullmatch(r"\[ +0 s\] reading", written[1])
        assert re.fullmatch(r"\[ +0 s\] features 640 of 640, \d+\.\d GB \(all converged\)", written[3])
        assert capsys.readouterr().err.splitlines() == ([] if quiet else written[1:])


def test_a_log_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(InputError, match="choose another --log"), ProgressBar(log=tmp_path / "nowhere" / "log.txt"):
        pass
