"""What a posterior says: summaries, variance components, populations, comparison of models."""
