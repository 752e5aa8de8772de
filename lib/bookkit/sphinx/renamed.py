"""Sphinx extension: links to a heading follow where only the page of that heading is built again.

Sphinx writes the pages whose own source has changed, and those whose numbers have. A page that
shows the heading of another one, in a link or in the card over it, would keep the old words.
"""

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment


def _pages_to_write(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Every page, where a heading or caption has changed since the last build; else none."""
    titles = {label: place[2] for label, place in env.domaindata["std"]["labels"].items()}
    before = getattr(env, "bookkit_titles", titles)
    env.bookkit_titles = titles  # type: ignore[attr-defined]
    return sorted(env.found_docs) if before != titles else []


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("env-updated", _pages_to_write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
