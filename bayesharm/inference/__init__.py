"""Inference: importance samples of features, variance ratios, hyperposterior, NUTS on the scales, spike and slab."""
