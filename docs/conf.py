"""How Sphinx builds these pages: ``make docs``."""

import importlib

import wsgi_defer

project = "wsgi_defer"
author = "the wsgi_defer project"
copyright = "the wsgi_defer project, MIT licence"  # noqa: A001 - Sphinx's name
version = release = wsgi_defer.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
# GitHub shows these two to whoever opens an issue or a pull request.
exclude_patterns = ["_build", "ISSUE_TEMPLATE.md", "PULL_REQUEST_TEMPLATE.md"]

html_theme = "furo"
html_title = f"wsgi_defer {release}"
html_copy_source = False
html_show_sourcelink = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

# Annotations name what has no page: other projects' types, as pages are built without a
# network, and what is private.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!wsgi_defer\b).*"),
    (r"py:.*", r"wsgi_defer\.(.*\.)?_.*"),
]
autodoc_typehints = "signature"
python_maximum_signature_line_length = 70
autodoc_member_order = "bysource"


def _call_public_classes_by_their_public_names():
    """Annotations are shown by where a class is from, which is a private module."""
    for name in ("", ".pools", ".jobs", ".testing", ".gunicorn", ".django"):
        module = importlib.import_module(f"wsgi_defer{name}")
        for each in module.__all__:
            public = getattr(module, each)
            if getattr(public, "__module__", "").startswith(module.__name__):
                public.__module__ = module.__name__


_call_public_classes_by_their_public_names()


def setup(app):
    def without_what_users_do_not_make(app, kind, name, public, options, *signature):
        """Of a class whose docstring has no parameters, the signature is ours."""
        if kind in ("class", "exception") and ":param " not in (public.__doc__ or ""):
            return "", None
        return signature

    app.connect("autodoc-process-signature", without_what_users_do_not_make)
