"""Region time series of scans, read from files or extracted from images, and their connectivity."""
