"""Harmonization of scans, adaptation to new scanners, and predictions."""
