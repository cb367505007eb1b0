"""The inference run over all features, resumably."""
