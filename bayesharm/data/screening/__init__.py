"""Screening of a study for tables that contradict themselves or mean something else than their names say."""
