"""Readers of the derivatives of other tools: folders with one file per scan, and tables with one row per scan."""
