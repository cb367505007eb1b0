"""Propagation of harmonization uncertainty to later analyses, by multiple-imputation pooling (Rubin's rules)."""
