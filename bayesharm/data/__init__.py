"""The scans table, the features, and the dataset of both."""
