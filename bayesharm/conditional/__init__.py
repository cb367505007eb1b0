"""The exact posterior of the effects given the scales."""
