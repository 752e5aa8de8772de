"""Every page as a reader sees it, in a browser: accessibility, width, weight, pictures.

On screens of 1280 and 390 pixels, light and dark. axe-core looks for what keeps people out
(contrast, names of fields and pictures, headings, parts that a keyboard does not reach); findings
of impact serious or critical count.
"""

import json
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from bookkit.checks.browser import Page, running
from nodulebook.core.errors import InputError

WIDTHS_PX = (1280, 390)
IMPACTS = ("serious", "critical")

MOST_BYTES = 5_000_000
"""Of a page with all that it loads."""
MOST_BYTES_LANDING = 1_500_000

AXE_PACKAGE, AXE_FILE = "selenium-axe-python", "selenium_axe_python/axe-core/axe.min.js"

COLOUR_RULES = ("color-contrast", "link-in-text-block")
"""What can differ between light and dark; the other rules look at the same page twice."""


def axe_source() -> str:
    """axe-core's script, from a package that carries it (and drives Selenium, which we do not).

    Raises:
        InputError: the package is not there.
    """
    try:
        script = distribution(AXE_PACKAGE).locate_file(AXE_FILE)
    except PackageNotFoundError:
        raise InputError(
            f"the package {AXE_PACKAGE} is missing: python -m pip install {AXE_PACKAGE}"
        ) from None
    return Path(str(script)).read_text(encoding="utf-8")


def axe_findings(
    page: Page, rules: Sequence[str] = (), but: Sequence[str] = (), within: str = "document"
) -> list[str]:
    """What axe-core finds on the open page, of serious or critical impact; a line a place.

    Args:
        page: an open page, into which `axe_source` was put.
        rules: only these; none: all.
        but: not these.
        within: an expression of JavaScript: the document, or a list of elements.
    """
    options: dict[str, Any] = {"resultTypes": ["violations", "incomplete"], "iframes": False}
    if rules:
        options["runOnly"] = {"type": "rule", "values": list(rules)}
    options["rules"] = {rule: {"enabled": False} for rule in but}
    # Text in the very colour of its background is no violation to axe, since it may be meant.
    script = (
        f"axe.run({within}, {json.dumps(options)}).then(r => JSON.stringify([...r.violations, "
        "...r.incomplete.map(v => ({...v, nodes: v.nodes.filter(n => "
        "n.any.some(c => c.data && c.data.messageKey === 'equalRatio'))}))].map("
        "v => [v.id, v.impact, v.help, v.nodes.map(n => [n.target.join(' '), n.html.slice(0, 160)])"
        "])))"
    )
    return [
        f"{impact}: {rule}: {text}: {target}  {html}"
        for rule, impact, text, places in json.loads(page.run(script))
        if impact in IMPACTS
        for target, html in places
    ]


COLOURS = """(seen => {
  const known = new Set(seen), found = new Set();
  window.withNewColours = [];
  const clear = /^rgba\\(.*, 0\\)$/, seeThrough = /^rgba|\\//;
  const hasText = e => e.matches("input, select, textarea") ||
    [...e.childNodes].some(n => n.nodeType === Node.TEXT_NODE && n.data.trim());
  const walk = (e, behind, colour) => {
    const s = getComputedStyle(e);
    if (s.display === "none") return;
    if (!clear.test(s.backgroundColor))
      behind = (seeThrough.test(s.backgroundColor) ? behind : "") + s.backgroundColor;
    if (s.backgroundImage !== "none") behind += s.backgroundImage;
    if (s.opacity !== "1") behind += " opacity " + s.opacity;
    if (s.visibility === "visible" && hasText(e)) {
      const key = [s.color, behind, s.fontSize, s.fontWeight, s.textShadow, s.textDecorationLine,
        s.borderBottom, colour].join(" | ");
      found.add(key);
      if (!known.has(key)) window.withNewColours.push(e);
    }
    for (const child of e.children) walk(child, behind, s.color);
  };
  walk(document.body, "", "");
  return JSON.stringify([...found]);
})"""
"""What the colour rules go by, once for each way in which a text of the page is coloured: its
colour, what lies behind it, its size and weight, its underline, and the colour of the text around
it. Keeps the elements whose way is not among those given in `withNewColours`."""


def colour_findings(page: Page, known: set[str]) -> list[str]:
    """What the colour rules find in texts that are coloured in a way not looked at before.

    Most of axe-core's time goes into them, and a narrow window colours few texts anew. What lies
    behind a text is what it is within; an overlap that only a narrow window has is not seen.

    Args:
        page: as for `axe_findings`.
        known: the ways that were looked at; those of this page are added.
    """
    ways = set(json.loads(page.run(f"{COLOURS}({json.dumps(sorted(known))})")))
    if ways <= known:
        return []
    first = not known
    known |= ways
    return axe_findings(page, COLOUR_RULES, within="document" if first else "withNewColours")


def too_wide(page: Page) -> list[str]:
    """Whether the open page is wider than the window; names elements that stick out."""
    found = page.run(
        """(() => {
          const wide = document.documentElement.scrollWidth, window_ = window.innerWidth;
          if (wide <= window_) return "";
          const out = [...document.querySelectorAll("article *")].filter(e => {
            const box = e.getBoundingClientRect();
            return box.width && box.right > window_ + 1; }).slice(0, 3);
          return `${wide} px wide in a window of ${window_}: ` + out.map(e =>
            `<${e.tagName.toLowerCase()} class="${e.className}" id="${e.id}">`).join(", ");
        })()"""
    )
    return [str(found)] if found else []


def loaded_files(page: Page) -> set[Path]:
    """The files of this machine that the open page consists of, itself among them."""
    tree = page.call("Page.getResourceTree")["frameTree"]
    addresses = [tree["frame"]["url"], *(one["url"] for one in tree["resources"])]
    parts = [urlsplit(address) for address in addresses]
    return {Path(unquote(part.path)) for part in parts if part.scheme == "file"}


def too_heavy(page: Page, most_bytes: int) -> list[str]:
    """Whether the open page, with the files that it loads, weighs too much."""
    sizes = {path: path.stat().st_size for path in loaded_files(page) if path.is_file()}
    total = sum(sizes.values())
    if total <= most_bytes:
        return []
    largest = sorted(sizes, key=lambda path: -sizes[path])[:3]
    names = ", ".join(f"{path.name} {sizes[path] / 1e6:.2f} MB" for path in largest)
    return [f"{total / 1e6:.2f} MB with its files, at most {most_bytes / 1e6:g} MB: {names}"]


def broken_pictures(page: Page) -> list[str]:
    """Pictures of the open page that did not load."""
    # Some are loaded when they are scrolled to; of those nothing is known yet.
    return [
        f"picture {name} does not load"
        for name in page.run(
            "[...document.images].filter(i => i.complete && !i.naturalWidth && i.currentSrc)"
            ".map(i => i.currentSrc.slice(-80))"
        )
    ]


def unnumbered_pictures(page: Page) -> list[str]:
    """Pictures of the open page's text that are not in a figure with a number and a caption."""
    return [
        f"picture {name} is in no numbered figure"
        for name in page.run(
            "[...document.querySelectorAll('article img')]"
            ".filter(i => !i.closest('figure:has(figcaption .caption-number)'))"
            ".map(i => i.alt || i.currentSrc.slice(-80))"
        )
    ]


@dataclass(frozen=True)
class Looked:
    """What was found on a page."""

    findings: list[str]
    weight_bytes: int


def look_at(page: Page, file: Path, name: str, axe: str, landing: bool = False) -> Looked:
    """Open a page and look at it in every width and scheme.

    Args:
        page: a tab.
        file: the HTML file.
        name: of the page, for the findings.
        axe: from `axe_source`.
        landing: whether it is the landing page.
    """
    findings: list[str] = []
    weight = 0
    known: dict[bool, set[str]] = {False: set(), True: set()}
    for width in WIDTHS_PX:
        # Opened anew at each width: the theme lets the keyboard reach what scrolls as it loads.
        page.look(width, dark=False)
        page.open(file)
        page.run(axe + "; 0")
        if width == WIDTHS_PX[0]:
            found = [
                *too_heavy(page, MOST_BYTES_LANDING if landing else MOST_BYTES),
                *broken_pictures(page),
                *unnumbered_pictures(page),
            ]
            findings += [f"{name}: {text}" for text in found]
            weight = sum(path.stat().st_size for path in loaded_files(page) if path.is_file())
        for dark in (False, True):
            page.look(width, dark)
            scheme = "dark" if dark else "light"
            page.wait(f"document.documentElement.dataset.theme === '{scheme}'")
            page.run("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")
            found = colour_findings(page, known[dark])
            if not dark:
                found += axe_findings(page, but=COLOUR_RULES) + too_wide(page)
            findings += [f"{name}, {width} px, {scheme}: {text}" for text in found]
    return Looked(findings, weight)


def look_at_all(book: Path, names: Sequence[str], jobs: int = 2) -> tuple[list[str], str]:
    """Look at pages of the built book, in some browsers side by side.

    Args:
        book: the folder of the built book.
        names: as `chapters/results`; the first is the landing page.
        jobs: browsers.

    Raises:
        InputError: there is no browser.
    """
    axe = axe_source()

    files = {name: book / f"{name}.html" for name in names}
    # The largest first: no browser is left with one of them at the end.
    waiting = deque(sorted(names, key=lambda name: -files[name].stat().st_size))

    def part(_: int) -> list[tuple[str, Looked]]:
        looked: list[tuple[str, Looked]] = []
        with running() as page:
            while True:
                try:
                    name = waiting.popleft()
                except IndexError:
                    return looked
                one = look_at(page, files[name], name, axe, landing=name == names[0])
                looked.append((name, one))

    with ThreadPoolExecutor(jobs) as pool:
        found = dict(pair for share in pool.map(part, range(jobs)) for pair in share)
    looked = [found[name] for name in names]
    heaviest = max(one.weight_bytes for one in looked)
    findings = [text for one in looked for text in one.findings]
    return findings, (
        f"{len(names)} pages at {' and '.join(map(str, WIDTHS_PX))} px, light and dark; "
        f"the heaviest {heaviest / 1e6:.2f} MB"
    )
