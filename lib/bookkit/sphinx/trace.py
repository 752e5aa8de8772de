"""The Sphinx extension behind `bookkit.tracing.trace`: glued numbers as links to their sources.

It also leaves `artefacts.json` beside the pages: the SHA-256 of every file that the book is
computed from, as it was when the build began. `nodulebook verify` compares.
"""

from typing import Any

from docutils import nodes
from myst_nb.core.variables import RetrievalError
from myst_nb.ext.glue.roles import PasteTextRole
from myst_nb.ext.glue.utils import retrieve_glue_data
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging

from bookkit.tracing.manifest import MANIFEST, artefact_hashes
from bookkit.tracing.trace import SOURCE_MIME, parts
from nodulebook.core.files import write_json

LOGGER = logging.getLogger(__name__)


class TracedText(PasteTextRole):  # type: ignore[misc]
    """`{glue:text}` that marks the numbers of its text with their sources."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """The text as nodes; numbers without a source are a warning, and so end `make check`."""
        found, messages = super().run()
        if len(found) != 1 or not isinstance(found[0], nodes.inline):
            return found, messages
        key = self.text.split(":")[0]
        try:
            where = retrieve_glue_data(self.document, key).data.get(SOURCE_MIME)
        except RetrievalError:
            return found, messages
        text = found[0].astext()
        cut = parts(text)
        if not where:
            if any(is_number for _, is_number in cut):
                LOGGER.warning(
                    "%r is glued without a source: %r; glue it with "
                    "bookkit.tracing.trace.glue_texts, which names the runs or files behind it",
                    key,
                    text,
                    location=(self.document.settings.env.docname, self.line),
                )
            return found, messages
        pasted = nodes.inline("", "", classes=["pasted-text"])
        for part, is_number in cut:
            pasted += _marked(part, where) if is_number else nodes.Text(part)
        self.set_source_info(pasted)
        return [pasted], messages


def _marked(number: str, where: dict[str, str]) -> nodes.inline:
    return nodes.inline(number, number, classes=["traced"], source_label=where["label"],
                        source_title=where["title"])  # fmt: skip


class LinkTraced(SphinxPostTransform):
    """Make the marked numbers links, once the labels of all pages are known."""

    default_priority = 9

    def run(self, **_: Any) -> None:
        """Replace each marked number by a reference; an unknown label is a warning."""
        labels = self.env.get_domain("std").anonlabels  # type: ignore[attr-defined]
        for marked in list(self.document.findall(nodes.inline)):
            label = marked.get("source_label")
            if label is None:
                continue
            if label not in labels:
                LOGGER.warning("no page has the source %r of a number", label, location=marked)
                continue
            page, place = labels[label]
            assert self.app.builder is not None
            uri = self.app.builder.get_relative_uri(self.env.docname, page)
            link = nodes.reference(
                "", "", refuri=f"{uri}#{place}", reftitle=marked["source_title"], internal=True,
                classes=["traced"],
            )  # fmt: skip
            link += nodes.Text(marked.astext())
            marked.replace_self(link)


def _take_hashes(app: Sphinx) -> None:
    """Before the pages are read: files that change while the book is built are noticed."""
    app.bookkit_hashes = artefact_hashes()  # type: ignore[attr-defined]


def _write_manifest(app: Sphinx, failed: Exception | None) -> None:
    if failed is None:
        write_json(app.bookkit_hashes, app.outdir / MANIFEST)  # type: ignore[attr-defined]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.setup_extension("myst_nb")
    app.add_role_to_domain("glue", "text", TracedText(), override=True)
    app.add_post_transform(LinkTraced)
    app.connect("builder-inited", _take_hashes)
    app.connect("build-finished", _write_manifest)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
