"""Parts of NumPyro, imported without the remark on ipywidgets that its progress bar makes in notebooks."""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "IProgress not found")
    from numpyro.diagnostics import effective_sample_size, gelman_rubin
    from numpyro.infer.hmc import hmc
    from numpyro.infer.util import ParamInfo

__all__ = ["ParamInfo", "effective_sample_size", "gelman_rubin", "hmc"]
