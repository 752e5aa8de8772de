"""Every page as a reader sees it, in a browser: accessibility, size, weight, pictures, tables.

On screens of 1280 and 390 pixels, light and dark, and on paper. axe-core looks for what keeps
people out (contrast, names of fields and pictures, headings, parts that a keyboard does not
reach); findings of impact serious or critical count.
"""

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, Request

from bookkit.checks.browser import running, show, switch

WIDTHS_PX = (1280, 390)
SCHEMES = ("light", "dark")
IMPACTS = ("serious", "critical")

MOST_BYTES = 5_000_000
"""Of a page with all that it loads."""
MOST_BYTES_LANDING = 1_500_000

MOST_HEIGHT_PX = 12_000
"""Of a page at the larger of `WIDTHS_PX`."""

MOST_TABLES_PER_FIGURE = 2
"""On the pages that are to show their results."""

PAPER_PX = 720
"""Width of an A4 page less its margins."""

COLOUR_RULES = ("color-contrast", "link-in-text-block")
"""What can differ between light and dark; the other rules look at the same page twice."""


def axe_findings(page: Page, rules: Sequence[str] = ()) -> list[str]:
    """What axe-core finds on the open page, of serious or critical impact; a line a place.

    Args:
        rules: only these; none: all.
    """
    options: dict[str, Any] = {"resultTypes": ["violations", "incomplete"], "iframes": False}
    if rules:
        options["runOnly"] = {"type": "rule", "values": list(rules)}
    response = Axe().run(page, options=options).response
    places = [(rule, node) for rule in response["violations"] for node in rule["nodes"]]
    # Text in the very colour of its background is no violation to axe, since it may be meant.
    places += [
        (rule, node)
        for rule in response["incomplete"]
        for node in rule["nodes"]
        if any((one.get("data") or {}).get("messageKey") == "equalRatio" for one in node["any"])
    ]
    return [
        f"{rule['impact']}: {rule['id']}: {rule['help']}: {node['target']}  {node['html'][:160]}"
        for rule, node in places
        if rule["impact"] in IMPACTS
    ]


def too_wide(page: Page) -> list[str]:
    """Whether the open page is wider than the window; names elements that stick out."""
    found = page.evaluate(
        """() => {
          const wide = document.documentElement.scrollWidth, window_ = window.innerWidth;
          if (wide <= window_) return [];
          const out = [...document.querySelectorAll("article *")].filter(e => {
            const box = e.getBoundingClientRect();
            return box.width && box.right > window_ + 1; }).slice(0, 3);
          return [`${wide} px wide in a window of ${window_}: ` + out.map(e =>
            `<${e.tagName.toLowerCase()} class="${e.className}" id="${e.id}">`).join(", ")];
        }"""
    )
    return list(found)


def too_tall(page: Page, most_px: int) -> list[str]:
    """Whether the open page is taller than so many CSS pixels."""
    height = int(page.evaluate("document.documentElement.scrollHeight"))
    return [f"{height:,} px tall, at most {most_px:,}"] if height > most_px else []


def squeezed(page: Page) -> list[str]:
    """Cells of tables on the open page that are too narrow for their words; at most three."""
    cells = page.evaluate(
        """() => [...document.querySelectorAll("article :is(td, th)")].filter(cell => {
          const one = parseFloat(getComputedStyle(cell).fontSize), text = cell.innerText.trim();
          return cell.checkVisibility() && text.length > 8 && cell.clientWidth < 3.5 * one;
        }).map(cell => cell.innerText.trim().replace(/\\s+/g, " ").slice(0, 40)).slice(0, 3)"""
    )
    return [f"a cell is too narrow for its words: {text}" for text in cells]


def out_of_sight(page: Page) -> list[str]:
    """Tables of results on the open page that show none before they are scrolled; at most three.

    Results are an AUC, a difference, a verdict and the like, by the heading of their column, and
    what has an interval; in a table with such a column, any column of decimals.
    """
    found = page.evaluate(
        """() => { const folded = [...document.querySelectorAll("article details:not([open])")];
          folded.forEach(one => one.open = true);
          const result = /AUC|difference|re-run|reported|verdict/;
          const interval = /\\d\\s*\\([-−]?[\\d.]+\\sto\\s/;
          const decimal = /^\\s*[-−]?\\d*\\.\\d/;
          const tables = [...document.querySelectorAll("article table:has(> thead)")];
          const beyond = tables.filter(table => {
            const rows = [...table.tBodies].flatMap(body => [...body.rows]);
            const heads = [...(table.tHead.rows[0]?.cells ?? [])].slice(1);
            const have = (k, what) => rows.some(row => what.test(row.cells[k + 1]?.textContent));
            if (!heads.some((head, k) => result.test(head.textContent) || have(k, interval)))
              return false;
            const column = heads.find((head, k) => result.test(head.textContent)
              || have(k, interval) || have(k, decimal));
            let edge = innerWidth;
            for (let at = table.parentElement; at.tagName != "ARTICLE"; at = at.parentElement)
              if (getComputedStyle(at).overflowX != "visible")
                edge = Math.min(edge, at.getBoundingClientRect().right);
            return column.getBoundingClientRect().right > edge + 1;
          }).map(table => (table.caption || table).innerText.trim().slice(0, 60)).slice(0, 3);
          folded.forEach(one => one.open = false);
          return beyond; }"""
    )
    return [f"the result is out of sight until it is scrolled to: {text}" for text in found]


def cut_off_in_print(page: Page) -> list[str]:
    """Tables and code of the open page that paper, which does not scroll, would cut off."""
    page.set_viewport_size({"width": PAPER_PX, "height": 900})
    page.emulate_media(media="print")
    found = page.evaluate(
        """() => { document.querySelectorAll("article details").forEach(one => one.open = true);
          const hides = one => getComputedStyle(one).overflowX != "visible"
            && one.scrollWidth > one.clientWidth + 2;
          return [...document.querySelectorAll("article :is(table, pre)")].filter(one => {
            if (!one.checkVisibility()) return false;
            for (let at = one; at.tagName != "ARTICLE"; at = at.parentElement)
              if (hides(at)) return true;
            const beyond = one.scrollWidth > one.clientWidth + 2;
            return beyond || one.getBoundingClientRect().right > innerWidth + 2;
          }).map(one => (one.caption || one).innerText.trim().slice(0, 60)).slice(0, 3); }"""
    )
    # A long table that may not break leaves most of the page before it blank.
    whole = page.evaluate(
        """() => [...document.querySelectorAll("article table:has(tr:nth-child(12))")].filter(one =>
          one.checkVisibility() && getComputedStyle(one).breakInside == "avoid"
        ).map(one => (one.caption || one).innerText.trim().slice(0, 60)).slice(0, 3)"""
    )
    page.emulate_media(media="screen")
    findings = [f"cut off in print: {text}" for text in found]
    return findings + [f"never divided between two printed pages: {text}" for text in whole]


def too_many_tables(page: Page) -> list[str]:
    """Whether the open page has more tables than `MOST_TABLES_PER_FIGURE` allows."""
    tables, figures = page.evaluate(
        """() => ["article table:not(table table)", "article figure:has(.caption-number)"]
          .map(what => document.querySelectorAll(what).length)"""
    )
    if tables <= MOST_TABLES_PER_FIGURE * figures:
        return []
    return [f"{tables} tables and {figures} figures, at most {MOST_TABLES_PER_FIGURE} per figure"]


def too_heavy(sizes: dict[str, int], most_bytes: int) -> list[str]:
    """Whether a page weighs too much; `sizes` has its files, in bytes."""
    total = sum(sizes.values())
    if total <= most_bytes:
        return []
    largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
    names = ", ".join(f"{Path(name).name} {sizes[name] / 1e6:.2f} MB" for name in largest)
    return [f"{total / 1e6:.2f} MB with its files, at most {most_bytes / 1e6:g} MB: {names}"]


def picture_findings(page: Page) -> list[str]:
    """Pictures of the open page that are not drawn, did not load, or are in no numbered figure."""
    # Some are loaded when they are scrolled to; of those nothing is known yet.
    broken = page.evaluate(
        "[...document.images].filter(i => i.complete && !i.naturalWidth && i.currentSrc)"
        ".map(i => i.currentSrc.slice(-80))"
    )
    unnumbered = page.evaluate(
        "[...document.querySelectorAll('article img')]"
        ".filter(i => !i.closest('figure:has(figcaption .caption-number)'))"
        ".map(i => i.alt || i.currentSrc.slice(-80))"
    )
    undrawn = page.evaluate(
        "[...document.querySelectorAll('figure, .cell_output')]"
        ".map(f => f.textContent.trim()).filter(t => t.startsWith('<Figure size'))"
    )
    findings = [f"a figure is text, not a picture: {text[:90]}" for text in undrawn]
    return (
        findings
        + [f"picture {name} does not load" for name in broken]
        + [f"picture {name} is in no numbered figure" for name in unnumbered]
    )


def look_at(
    page: Page, file: Path, name: str, most_bytes: int, long: bool = False, shows: bool = False
) -> tuple[list[str], int]:
    """Open a page and look at it in every width and scheme.

    Args:
        most_bytes: that it may weigh with its files.
        long: whether it may be taller than `MOST_HEIGHT_PX`.
        shows: whether its tables need figures (`too_many_tables`).

    Returns:
        Findings, and its weight in bytes.
    """
    sizes: dict[str, int] = {}

    def note(request: Request) -> None:
        path = Path(unquote(urlsplit(request.url).path))
        if request.url.startswith("file:") and path.is_file():
            sizes[str(path)] = path.stat().st_size

    findings: list[str] = []
    page.on("request", note)
    for width in WIDTHS_PX:
        show(page, file.resolve().as_uri(), width, "light")
        found = axe_findings(page) + too_wide(page) + squeezed(page)
        if width == WIDTHS_PX[0]:
            found += too_heavy(sizes, most_bytes) + picture_findings(page)
            found += [] if long else too_tall(page, MOST_HEIGHT_PX)
            found += too_many_tables(page) if shows else []
        else:
            found += out_of_sight(page)
        findings += [f"{name}, {width} px, light: {text}" for text in found]
        switch(page, "dark")
        found = axe_findings(page, COLOUR_RULES)
        findings += [f"{name}, {width} px, dark: {text}" for text in found]
    findings += [f"{name}: {text}" for text in cut_off_in_print(page)]
    page.remove_listener("request", note)
    return findings, sum(sizes.values())


def look_at_all(
    book: Path,
    names: Sequence[str],
    jobs: int = 2,
    long: Collection[str] = (),
    shows: Collection[str] = (),
) -> tuple[list[str], str]:
    """Look at pages of the built book, in some browsers side by side.

    Args:
        names: as `chapters/results`; the first is the landing page.
        long: names of pages that may be long.
        shows: names of pages whose tables need figures.

    Raises:
        InputError: there is no browser.
    """
    files = {name: book / f"{name}.html" for name in names}
    # The largest first: no browser is left with one of them at the end.
    waiting = iter(sorted(names, key=lambda name: -files[name].stat().st_size))

    def part(_: int) -> dict[str, tuple[list[str], int]]:
        looked = {}
        with running() as page:
            for name in waiting:  # shared by all browsers
                most = MOST_BYTES_LANDING if name == names[0] else MOST_BYTES
                looked[name] = look_at(page, files[name], name, most, name in long, name in shows)
        return looked

    with ThreadPoolExecutor(jobs) as pool:
        looked = {name: one for share in pool.map(part, range(jobs)) for name, one in share.items()}
    heaviest = max(weight for _, weight in looked.values())
    return [text for name in names for text in looked[name][0]], (
        f"{len(names)} pages at {' and '.join(map(str, WIDTHS_PX))} px, light and dark; "
        f"the heaviest {heaviest / 1e6:.2f} MB"
    )
