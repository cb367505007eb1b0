"""Sections of a report: sentences on one aspect of a run, with figures, tables and caveats."""
