"""The posterior of the effects given the scales: Gaussian and exact, with no sampling of effects during inference.

``posterior`` holds it, and ``gaussian`` computes it for many features; ``effects`` averages it over draws of the scales;
``finite_population`` draws from it; ``leave_group_out`` predicts scans that are left out; ``identifiability`` derives from
it how much the data say.
"""
