"""Sphinx extension: the directive `{library}`, all modules of a package from their docstrings."""

import pkgutil
from importlib.util import find_spec

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import nested_parse_with_titles

from nodulebook.core.errors import InputError


def modules(package: str) -> list[str]:
    """A package and its public modules, those of its folders included; nothing is imported.

    Raises:
        InputError: there is no such package.
    """
    try:
        spec = find_spec(package)
    except ModuleNotFoundError:
        spec = None
    if spec is None:
        raise InputError(f"{package}: there is no such package")
    found = [package]
    for one in pkgutil.iter_modules(spec.submodule_search_locations or []):
        name = f"{package}.{one.name}"
        if not one.name.startswith("_"):
            found += modules(name) if one.ispkg else [name]
    return found


class Library(SphinxDirective):
    """`{library} nodulebook.core`: a section for each module."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The sections."""
        lines: list[str] = []
        for name in modules(self.arguments[0]):
            lines += [name, "=" * len(name), "", f".. automodule:: {name}", ""]
        section = nodes.section()
        section.document = self.state.document
        nested_parse_with_titles(self.state, StringList(lines, self.arguments[0]), section)
        return list(section.children)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_directive("library", Library)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
