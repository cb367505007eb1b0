"""Figures of the report as Vega-Lite specifications, each with a caption, words for it, and its numbers as a table."""
