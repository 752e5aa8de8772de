"""A new reader's way through the built book, in a browser, with pictures of each step.

Landing page, ledger (searched, filtered), a chapter, the results, the maps to scroll through: on
1280 and 390 pixels, light and dark.
"""

from collections.abc import Callable
from pathlib import Path

from bookkit.checks.browser import Page, running
from bookkit.checks.looks import WIDTHS_PX

SEARCHED = "1230"
FILTERED = "impossible as written"

Step = Callable[[Page], list[str]]

NO_PICTURES = "[...document.querySelectorAll('article img')].filter(i => !i.naturalWidth).length"
LOAD_ALL = "document.querySelectorAll('img').forEach(i => { i.loading = 'eager' }); 0"


def landing(page: Page) -> list[str]:
    """The verdict and the table of results are there, and numbers lead to their source."""
    findings = []
    if not page.run("document.querySelector('article h1')?.textContent.includes('[Re]')"):
        findings.append("has no title")
    if not page.run("document.querySelectorAll('#tab-landing tbody tr').length"):
        findings.append("has no table of results")
    numbers = page.run(
        "[...document.querySelectorAll('a.traced')].map(a => [a.textContent, a.title, a.href])"
    )
    if not numbers:
        findings.append("has no number that leads to its source")
    findings += [
        f"the number {text} has no source to show" for text, title, _ in numbers if len(title) < 10
    ]
    top = page.run(
        "(() => { const p = [...document.querySelectorAll('article p')].find(p =>"
        " p.textContent.startsWith('Does it hold?')); return p ? p.getBoundingClientRect().top"
        " : 1e9 })()"
    )
    if top > 900:
        findings.append("the verdict is not on the first screen")
    return findings


def ledger(page: Page) -> list[str]:
    """The ledger is searched and filtered; what is left fits."""
    findings = []
    rows = "[...document.querySelectorAll('.claims tbody tr')]"
    shown = f"{rows}.filter(r => !r.hidden && r.getClientRects().length)"
    every = page.run(f"{rows}.length")
    _enter(page, ".claims [name=q]", SEARCHED)
    found = page.run(f"{shown}.map(r => r.textContent.replace(/(\\d),(?=\\d{{3}})/g, '$1'))")
    if not 0 < len(found) < every:
        findings.append(f"the search for {SEARCHED} shows {len(found)} of {every} claims")
    findings += [f"{text[:40]!r} has no {SEARCHED}" for text in found if SEARCHED not in text]
    _enter(page, ".claims [name=q]", "")
    _enter(page, ".claims [name=verdict]", FILTERED)
    verdicts = page.run(f"{shown}.map(r => r.dataset.verdict)")
    if not 0 < len(verdicts) < every or set(verdicts) != {FILTERED}:
        findings.append(f"filtered by {FILTERED!r} it shows {len(verdicts)} claims, {verdicts[:3]}")
    _enter(page, ".claims [name=verdict]", "")
    if page.run(f"{shown}.length") != every:
        findings.append("without search and filter it does not show all claims")
    _enter(page, ".claims [name=q]", SEARCHED)
    page.run("document.querySelector('.claims').scrollIntoView(); 0")
    return findings


def chapter(page: Page) -> list[str]:
    """Tables have captions, pictures load and have words for those who do not see them."""
    findings = []
    if not page.run("document.querySelectorAll('article table caption').length"):
        findings.append("has no table with a caption")
    if page.run("[...document.querySelectorAll('article img')].some(i => !i.alt.trim())"):
        findings.append("has a picture without words for those who do not see it")
    return findings + _pictures(page)


def results(page: Page) -> list[str]:
    """The tables and the ROC curve are there; following a number leads to its run."""
    findings = [
        f"has no {name}"
        for name in ("tab-pooled", "tab-by-fold", "fig-roc", "fig-accuracy")
        if not page.run(f"!!document.getElementById('{name}')")
    ]
    if page.run("document.querySelectorAll('#tab-pooled tbody tr').length") < 1:
        findings.append("its table of pooled results is empty")
    return findings + _pictures(page)


def results_links(page: Page) -> list[str]:
    """Following a number leads to its run's table."""
    target = page.run(
        "[...document.querySelectorAll('a.traced')].map(a => a.href)"
        ".find(h => h.includes('#run-')) || ''"
    )
    if not target:
        return ["has no number that leads to its run"]
    page.open_address(target)
    if not page.run("!!document.querySelector(':target')"):
        return [f"a number leads to {target}, which is not there"]
    return []


def maps(page: Page) -> list[str]:
    """The slider of the map viewer changes picture and number, by keyboard too."""
    if not page.run("!!document.querySelector('.scroll-view input')"):
        return ["has no maps to scroll through"]
    slider, picture = ".scroll-view input", "document.querySelector('.scroll-view img').src"
    before = page.run(picture)
    _enter(page, slider, "5")
    findings = []
    if page.run(picture) == before:
        findings.append("moving the slider does not change the picture")
    if page.run("document.querySelector('.scroll-view output').textContent") != "5":
        findings.append("the slider's number does not follow")
    page.run(f"document.querySelector('{slider}').focus(); 0")
    for kind in ("keyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key="ArrowRight", code="ArrowRight",
                  windowsVirtualKeyCode=39)  # fmt: skip
    if page.run("document.querySelector('.scroll-view output').textContent") != "6":
        findings.append("the slider does not answer to the keyboard")
    page.run("document.querySelector('.scroll-view').scrollIntoView(); 0")
    return findings


WAY: tuple[tuple[str, str, tuple[Step, ...]], ...] = (
    ("landing", "index", (landing,)),
    ("ledger", "chapters/claims", (ledger,)),
    ("chapter", "chapters/data_selection", (chapter,)),
    ("results", "chapters/results", (results, results_links)),
    ("maps", "chapters/explanations", (maps,)),
)
"""Name of the picture, page, what is done and looked at. The picture is taken before a step that
leaves the page."""


def walk(book: Path, pictures: Path) -> tuple[list[str], str]:
    """Walk the way in every width and scheme; leave a picture of each step.

    Args:
        book: the folder of the built book.
        pictures: the folder for them.

    Raises:
        InputError: there is no browser.
    """
    findings, taken = [], 0
    with running() as page:
        for width in WIDTHS_PX:
            for dark in (False, True):
                scheme = "dark" if dark else "light"
                for name, file, steps in WAY:
                    page.look(width, dark)
                    page.open(book / f"{file}.html")
                    found = steps[0](page)
                    page.picture(pictures / f"{name}-{width}-{scheme}.png")
                    taken += 1
                    for step in steps[1:]:
                        found += step(page)
                    findings += [f"{file}, {width} px, {scheme}: {text}" for text in found]
    return findings, f"{len(WAY)} pages, {taken} pictures in {pictures}"


def _enter(page: Page, field: str, value: str) -> None:
    """Set a field's value as a user does: the page hears of it."""
    page.run(
        f"(() => {{ const f = document.querySelector({field!r}); f.value = {value!r};"
        " f.dispatchEvent(new Event('input', {bubbles: true})) })()"
    )


def _pictures(page: Page) -> list[str]:
    """Pictures of the article that do not load."""
    page.run(LOAD_ALL)
    page.wait("[...document.querySelectorAll('article img')].every(i => i.complete)")
    broken = page.run(NO_PICTURES)
    return [f"{broken} pictures do not load"] if broken else []
