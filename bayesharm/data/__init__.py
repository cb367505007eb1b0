"""Scans, features, and the dataset that holds both."""
