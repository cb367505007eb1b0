"""The check of a study before it is fitted: what it can and cannot separate, and how precisely.

``counts`` and ``links`` describe the scans; ``confounding``, ``precision`` and ``gains`` follow from the design alone, given
the prior medians of the scales; ``feature_values`` and ``outlying`` look at the features; ``verdict`` says all of it in
sentences; ``check`` puts them together and ``page`` prints them. Nothing here needs JAX.
"""
