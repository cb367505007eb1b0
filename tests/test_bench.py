"""The estimate for a whole connectome from the times of a small study."""

from bayesharm.cli.bench import CONNECTOME, Benchmark


def test_only_what_grows_with_the_features_is_scaled_up():
    seconds = {"simulate": 1.0, "read": 0.5, "fit": 60.0, "fit: features": 10.0, "preview": 5.0, "harmonize": 0.1}
    benchmark = Benchmark(CONNECTOME // 2, seconds, "some machine")
    assert benchmark.connectome_seconds == 50.0 + 2 * 10.5
    text = str(benchmark)
    assert "some machine" in text and "about 1.2 minutes" in text and max(map(len, text.splitlines())) <= 80
