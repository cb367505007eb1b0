"""Harmonized data: corrections, adaptation to new scanners, predictions."""
