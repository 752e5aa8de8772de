"""Links of the built book: every file and every place within a page exists.

Addresses elsewhere are looked at for their form; whether they answer is asked by Sphinx's
linkcheck on demand, since that needs a network.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

from bs4 import BeautifulSoup

ATTRIBUTES = {"a": "href", "img": "src", "link": "href", "script": "src", "iframe": "src",
              "source": "src", "object": "data"}  # fmt: skip
OUTSIDE = re.compile(r"https?://(?:[a-z0-9-]+\.)+[a-z]{2,}(?::\d+)?(?:[/?#][^\s<>\"{}|\\^`]*)?")
"""An address of a named server; what does not match is a slip, or an address of this machine."""


def read_places(page: Path) -> tuple[set[str], Counter[str]]:
    """Links of an HTML file, and its ids with how often each occurs."""
    text = page.read_text(encoding="utf-8")
    tags = BeautifulSoup(text, "html.parser").find_all(True)
    links = {str(tag.get(ATTRIBUTES[tag.name], "")) for tag in tags if tag.name in ATTRIBUTES}
    ids = Counter(str(tag["id"]) for tag in tags if tag.get("id"))
    ids |= Counter({str(tag["name"]) for tag in tags if tag.name == "a" and tag.get("name")})
    return links - {""}, ids


def check_links(book: Path) -> tuple[list[str], str]:
    """Links of all pages that lead nowhere, and addresses elsewhere that cannot be right."""
    book = book.resolve()
    pages = [page for page in sorted(book.rglob("*.html")) if "_static" not in page.parts]
    places = {page: read_places(page) for page in pages}
    ids = {page: known for page, (_, known) in places.items()}
    findings: list[str] = []
    outside: set[str] = set()
    inside = 0
    for page, (links, known) in places.items():
        found = [f"the id {one!r} occurs twice" for one, count in known.items() if count > 1]
        for link in sorted(links):
            if re.match(r"(?:https?:)?//", link):
                outside.add(link)
                if not OUTSIDE.fullmatch(link) or link.endswith((".,", ")", "'", ";")):
                    found.append(f"{link} is no address of a server")
            elif not urlsplit(link).scheme:
                inside += 1
                found += [f"the link {link!r} leads to {why}" for why in _inside(page, link, ids)]
        findings += [f"{page.relative_to(book).as_posix()}: {text}" for text in found]
    return findings, (
        f"{inside} links within {len(pages)} pages; {len(outside)} addresses elsewhere, not asked"
    )


def _inside(page: Path, link: str, ids: dict[Path, Counter[str]]) -> Iterator[str]:
    """Why a link within the book leads nowhere."""
    address = urlsplit(urljoin(page.as_uri(), link))
    target = Path(unquote(address.path))
    target = (target / "index.html" if target.is_dir() else target).resolve()
    fragment = unquote(address.fragment)
    if not target.is_file():
        yield "no file"
    elif fragment and target in ids and fragment not in ids[target]:
        yield "a place that is not on that page"
