"""Figures, sections and the HTML report."""
