"""A new reader's way through the built book, in a browser, with pictures of each step.

Landing page, ledger (searched, filtered), a chapter, the results, the maps to scroll through: on
1280 and 390 pixels, light and dark.
"""

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page

from bookkit.checks.browser import running, show
from bookkit.checks.looks import SCHEMES, WIDTHS_PX

SEARCHED = "1230"
FILTERED = "impossible as written"


def landing(page: Page) -> list[str]:
    """The verdict and the table of results are there, and numbers lead to their source."""
    findings = [
        f"has no {words}"
        for words, selector in (
            ("title", "article h1:has-text('[Re]')"),
            ("table of results", "#tab-landing tbody tr"),
            ("number that leads to its source", "a.traced"),
        )
        if not page.locator(selector).count()
    ]
    numbers = page.locator("a.traced").evaluate_all("all => all.map(a => [a.textContent, a.title])")
    findings += [f"the number {text} has no source" for text, title in numbers if len(title) < 10]
    verdict = page.locator("article p:has-text('Does the claim hold?')")
    box = verdict.first.bounding_box() if verdict.count() else None
    if box is None or box["y"] > 900:
        findings.append("the verdict is not on the first screen")
    return findings


def ledger(page: Page) -> list[str]:
    """The ledger is searched and filtered; without both it shows all claims."""
    findings = []
    search, verdict = page.locator(".claims [name=q]"), page.locator(".claims [name=verdict]")
    rows = page.locator(".claims tbody tr")
    shown = rows.locator("visible=true")
    every = rows.count()
    search.fill(SEARCHED)
    found = [text.replace(",", "") for text in shown.all_text_contents()]
    if not 0 < len(found) < every:
        findings.append(f"the search for {SEARCHED} shows {len(found)} of {every} claims")
    findings += [f"{text[:40]!r} has no {SEARCHED}" for text in found if SEARCHED not in text]
    search.fill("")
    verdict.select_option(FILTERED)
    verdicts = shown.evaluate_all("rows => rows.map(r => r.dataset.verdict)")
    if not 0 < len(verdicts) < every or set(verdicts) != {FILTERED}:
        findings.append(f"filtered by {FILTERED!r} it shows {len(verdicts)} claims, {verdicts[:3]}")
    verdict.select_option("")
    if shown.count() != every:
        findings.append("without search and filter it does not show all claims")
    search.fill(SEARCHED)
    search.scroll_into_view_if_needed()
    return findings


def chapter(page: Page) -> list[str]:
    """Tables have captions, pictures load and have words for those who do not see them."""
    findings = []
    if not page.locator("article table caption").count():
        findings.append("has no table with a caption")
    if page.evaluate("[...document.querySelectorAll('article img')].some(i => !i.alt.trim())"):
        findings.append("has a picture without words for those who do not see it")
    return findings + _pictures(page)


def results(page: Page) -> list[str]:
    """The tables and figures are there, and a number leads to its run's table."""
    names = ("#tab-pooled tbody tr", "#tab-by-fold", "#fig-roc", "#fig-accuracy")
    findings = [f"has no {name}" for name in names if not page.locator(name).count()]
    findings += _pictures(page)
    number = page.locator("a.traced[href*='#run-']").first
    if not number.count():
        return [*findings, "has no number that leads to its run"]
    target = number.evaluate("a => a.href")
    page.goto(target)
    if not page.locator(":target").count():
        findings.append(f"a number leads to {target}, which does not exist")
    page.go_back()
    return findings


def maps(page: Page) -> list[str]:
    """The slider of the map viewer changes picture and number, by keyboard too."""
    view = page.locator(".scroll-view").first
    if not view.count():
        return ["has no maps to scroll through"]
    slider, number, picture = (
        view.locator("input"),
        view.locator("output"),
        view.locator("img").first,
    )
    before = picture.get_attribute("src")
    slider.fill("5")
    findings = []
    if picture.get_attribute("src") == before:
        findings.append("moving the slider does not change the picture")
    if number.text_content() != "5":
        findings.append("the slider's number does not follow")
    slider.press("ArrowRight")
    if number.text_content() != "6":
        findings.append("the slider does not answer to the keyboard")
    view.scroll_into_view_if_needed()
    return findings


WAY: tuple[tuple[str, str, Callable[[Page], list[str]]], ...] = (
    ("landing", "index", landing),
    ("ledger", "chapters/claims", ledger),
    ("chapter", "chapters/data_selection", chapter),
    ("results", "chapters/results", results),
    ("maps", "chapters/explanations", maps),
)
"""Name of the picture, page, what is done and looked at."""


def walk(book: Path, pictures: Path) -> tuple[list[str], str]:
    """Walk the way in every width and scheme; leave a picture of each step.

    Raises:
        InputError: there is no browser.
    """
    findings = []
    with running() as page:
        for width in WIDTHS_PX:
            for scheme in SCHEMES:
                for name, file, step in WAY:
                    show(page, (book / f"{file}.html").resolve().as_uri(), width, scheme)
                    found = step(page)
                    page.screenshot(path=pictures / f"{name}-{width}-{scheme}.png")
                    findings += [f"{file}, {width} px, {scheme}: {text}" for text in found]
    taken = len(WAY) * len(WIDTHS_PX) * len(SCHEMES)
    return findings, f"{len(WAY)} pages, {taken} pictures in {pictures}"


def _pictures(page: Page) -> list[str]:
    """Pictures of the article that do not load."""
    page.evaluate("document.querySelectorAll('img').forEach(i => { i.loading = 'eager' })")
    page.wait_for_function("[...document.querySelectorAll('article img')].every(i => i.complete)")
    broken = page.evaluate(
        "[...document.querySelectorAll('article img')].filter(i => !i.naturalWidth).length"
    )
    return [f"{broken} pictures do not load"] if broken else []
