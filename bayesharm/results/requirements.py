"""What an analysis requires of a posterior."""

from __future__ import annotations

from bayesharm.errors import InputError
from bayesharm.results.posterior import Posterior


def require_gaussian(posterior: Posterior, reason: str) -> None:
    """Refuse a posterior with Student-t noise.

    Parameters
    ----------
    posterior : Posterior
    reason : str
        A sentence: what needs Gaussian noise, and why.

    Raises
    ------
    InputError
    """
    if posterior.spec.has_tails:
        raise InputError(
            reason,
            got=f"a posterior with the likelihood {posterior.spec.likelihood!r}",
            expected="the likelihood 'gaussian'",
            do="fit again with the likelihood gaussian, without the scans to which this run gives small weights",
        )
