"""The likelihood of features given the scales, with all effects integrated out.

``definition`` says in thirty lines what ``collapsed`` computes fast; ``moments`` reduces the scans to sums of products;
``problem`` adds the priors; ``sufficient_statistics`` and ``merging`` add new scans to the sums of old ones.
"""
