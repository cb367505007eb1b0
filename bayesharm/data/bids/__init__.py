"""Reads raw BIDS datasets into a scans table, and writes harmonized connectivity as a BIDS derivative."""
