"""Links of the built book: that every file and every place within a page is there.

Addresses elsewhere are looked at for their form; whether they answer is asked only on demand,
since that needs a network.
"""

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import requests

SEEN_BY_THE_READER = (("a", "href"), ("img", "src"), ("link", "href"), ("script", "src"),
                      ("iframe", "src"), ("source", "src"), ("object", "data"))  # fmt: skip


@dataclass
class _Places(HTMLParser):
    """The links of a page and the ids that one can link to."""

    links: set[str] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)
    twice: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element's links and id."""
        for name, value in attrs:
            if value and (tag, name) in SEEN_BY_THE_READER:
                self.links.add(value)
            elif value and (name == "id" or (tag, name) == ("a", "name")):
                if value in self.ids and name == "id":
                    self.twice.add(value)
                self.ids.add(value)


def read_places(page: Path) -> tuple[set[str], set[str], set[str]]:
    """Links, ids, and ids that are there twice, of an HTML file."""
    parser = _Places()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser.links, parser.ids, parser.twice


def check_links(book: Path, ask: bool = False) -> tuple[list[str], str]:
    """Links of all pages that lead nowhere, and addresses elsewhere that cannot be right.

    Args:
        book: the folder of the built book.
        ask: whether addresses elsewhere are asked for an answer.
    """
    pages = [page for page in sorted(book.rglob("*.html")) if "_static" not in page.parts]
    places = {page.resolve(): read_places(page) for page in pages}
    findings: list[str] = []
    elsewhere: dict[str, str] = {}
    inside = 0
    for page, (links, _, twice) in places.items():
        name = page.relative_to(book.resolve()).as_posix()
        findings += [f"{name}: the id {one!r} is there twice" for one in sorted(twice)]
        for link in sorted(links):
            address = urlsplit(link)
            if address.scheme in ("http", "https") or link.startswith("//"):
                elsewhere.setdefault(link, name)
            elif not address.scheme:
                inside += 1
                findings += [f"{name}: {text}" for text in _inside(page, link, places)]
    findings += [
        f"{name}: {link}: {why}" for link, name in elsewhere.items() if (why := _form(link))
    ]
    if ask:
        findings += _answers(elsewhere)
    asked = "asked" if ask else "looked at, not asked"
    return findings, (
        f"{inside} links within {len(pages)} pages; {len(elsewhere)} addresses elsewhere {asked}"
    )


def _inside(
    page: Path, link: str, places: dict[Path, tuple[set[str], set[str], set[str]]]
) -> Iterable[str]:
    """Why a link within the book leads nowhere."""
    address = urlsplit(link)
    target = page
    if address.path:
        target = Path(unquote(urlsplit(urljoin(page.as_uri(), address.path)).path))
        if target.is_dir():
            target = target / "index.html"
        if not target.is_file():
            yield f"the link {link!r} leads to no file"
            return
    known = places.get(target.resolve())
    fragment = unquote(address.fragment)
    if fragment and known is not None and fragment not in known[1]:
        yield f"the link {link!r} leads to a place that is not on that page"


def _form(link: str) -> str:
    """What is wrong with an address's form; "" where nothing is."""
    try:
        host = urlsplit(link).hostname or ""
    except ValueError:
        return "is no address"
    if host in ("localhost", "127.0.0.1"):
        return "is an address of this machine"
    if not re.fullmatch(r"(?:[a-z0-9-]+\.)+[a-z]{2,}", host):
        return "has no name of a server"
    if re.search(r"[\s<>\"{}|\\^`]", link) or link.endswith((".,", ")", "'", ";")):
        return "has a character that does not belong into an address"
    return ""


def _answers(elsewhere: dict[str, str]) -> list[str]:
    """Addresses that do not answer; a refusal of robots (401, 403, 429) counts as an answer."""

    def ask(link: str) -> str:
        try:
            answer = requests.get(
                link, timeout=30, stream=True, headers={"User-Agent": "nodulebook link check"}
            )
        except requests.RequestException as error:
            return f"does not answer ({type(error).__name__})"
        bad = answer.status_code >= 400 and answer.status_code not in (401, 403, 429)
        return f"answers {answer.status_code}" if bad else ""

    with ThreadPoolExecutor(8) as pool:
        replies = pool.map(ask, elsewhere)
    return [
        f"{name}: {link}: {why}"
        for (link, name), why in zip(elsewhere.items(), replies, strict=True)
        if why
    ]
