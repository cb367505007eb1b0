"""Random numbers: those of a stage, a seed and a feature are its own, wherever the feature stands."""

import jax
import numpy as np

from bayesharm.algorithms.random_streams import Stage, feature_keys, stage_key


def words(keys) -> np.ndarray:
    return np.asarray(jax.random.key_data(keys)).reshape(-1, 2)


def test_seeds_stages_and_features_have_streams_of_their_own():
    features = np.array([0, 1, 2, 35_777])
    every = [words(feature_keys(seed, stage, features)) for seed in (0, 1, 2**31) for stage in Stage]
    every += [words(stage_key(seed, stage)) for seed in (0, 1) for stage in Stage]
    every = np.concatenate(every)
    assert len(np.unique(every, axis=0)) == len(every)
    assert len(Stage.__members__) == len(Stage)  # no stage is another name of one before


def test_a_feature_keeps_its_stream_in_any_block_and_order():
    whole = words(feature_keys(3, Stage.FEATURES, np.arange(9)))
    for block in ([4], [8, 2, 5], [7, 8]):
        np.testing.assert_array_equal(words(feature_keys(3, Stage.FEATURES, np.array(block))), whole[block])
