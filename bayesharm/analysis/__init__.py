"""Analyses of a posterior: summary, variance components, scanner similarity, test of populations, model comparison."""
