"""Configuration of the documentation site; `make docs` builds it, without a network."""

import os
import sys
from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx.errors import ConfigError
from sphinx.highlighting import lexers

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_ext")]
# Tutorials run the code of this checkout, and keep their compiled programs for the next build.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # they call `bayesharm`, too
if os.environ.get("BAYESHARM_DATA"):
    os.environ["BAYESHARM_DATA"] = str(Path(os.environ["BAYESHARM_DATA"]).resolve())  # pages run in folders of their own
os.environ["MATPLOTLIBRC"] = str(ROOT / "docs" / "matplotlibrc")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / "build" / "docs-programs"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")  # a quarter less time for compilation

project = "bayesharm"
author = "bayesharm developers"
copyright = author
extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "sphinx_design",
    "command_reference",
    "glossary_links",
    "outside_pages",
    "spread_tutorials",
]
exclude_patterns = ["_ext", "_templates"]
templates_path = ["_templates"]

# Pages are Markdown that GitHub shows as well: links are relative paths with GitHub's anchors.
myst_heading_anchors = 6
myst_enable_extensions = ["colon_fence", "deflist"]

nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / "build" / "docs-executed")
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 900
nb_merge_streams = True
nb_output_stderr = "remove"  # progress and repeated notes; pages print the notes that matter

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc's lists of parameters state types, shapes and units
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

# Links into the pages of other libraries need a network; a build to be published sets DOCS_INTERSPHINX=1.
intersphinx_mapping = (
    {
        "arviz": ("https://python.arviz.org/en/stable/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "pandas": ("https://pandas.pydata.org/docs/", None),
        "python": ("https://docs.python.org/3/", None),
        "sklearn": ("https://scikit-learn.org/stable/", None),
        "xarray": ("https://docs.xarray.dev/en/stable/", None),
    }
    if os.environ.get("DOCS_INTERSPHINX")
    else {}
)
nitpicky = True
nitpick_ignore_regex = [
    # Names inside the package, which docstrings mention for those who read the code.
    (r"py:.*", r"bayesharm(\.[a-z_0-9]+)+\.\w+"),
    # Names of other libraries, which have no page here unless the build may use a network.
    (r"py:.*", r"(arviz|jax|matplotlib|numpy|np|pandas|pd|sklearn|xarray|xr)(\..*)?"),
]

lexers["mermaid"] = TextLexer()  # GitHub draws the diagram of ARCHITECTURE.md; here it is text

html_theme = "pydata_sphinx_theme"
html_title = "bayesharm"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_context = {"default_mode": "auto"}
html_copy_source = False
html_show_sourcelink = False
html_sidebars = {"index": []}
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "show_nav_level": 2,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
    "article_footer_items": [],
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def require_data(_app, config):
    """Refuse to build at once if a tutorial lacks its data: a page without its pictures is never published unseen."""
    folder = os.environ.get("BAYESHARM_DATA", "")
    missing = [name for name in ("rpn_timeseries.npz", "rpn_scans.csv") if not (Path(folder) / name).is_file()]
    if missing and config.nb_execution_mode != "off":
        raise ConfigError(
            f"Data of a tutorial are missing: got BAYESHARM_DATA={folder!r} without {' and '.join(missing)}; expected a "
            "folder that holds them; make them as docs/tutorials/connectomes.md says and set BAYESHARM_DATA to it, "
            "or build without running the tutorials: sphinx-build -D nb_execution_mode=off docs build/docs"
        )


def setup(app):
    """Connect the check of the data."""
    app.connect("config-inited", require_data)
