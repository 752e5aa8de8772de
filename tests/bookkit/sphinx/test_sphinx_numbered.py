"""The ledger's links end in the number of a figure, table or equation."""

from bookkit.ledger import claims
from bookkit.sphinx import numbered


def test_the_words_of_a_label_give_way_to_its_number() -> None:
    found = {
        "results": {"figure": {"fig-roc": (16,)}, "table": {"tab-primary": (36,)}},
        "training": {"displaymath": {"equation-eq-mish": (4,)}, "section": {"x": (1,)}},
    }
    formats = {"figure": "Fig. %s", "table": "Table %s", "displaymath": "Eq. (%s)"}
    numbers = numbered.numbers_of(found, formats)
    assert numbers == {
        "fig-roc": "Fig. 16", "tab-primary": "Table 36", "equation-eq-mish": "Eq. (4)"
    }  # fmt: skip
    link = '<a class="numbered" href="results.html#tab-{}">A &amp; B › table: {}</a>'
    body = link.format("primary", "primary") + link.format("other", "other") + "<p>words</p>"
    page = numbered.with_numbers(body, numbers)
    assert ">A &amp; B › Table 36</a>" in page and "› table: other</a>" in page
    assert page.endswith("<p>words</p>")


def test_every_numbered_place_of_the_ledger_is_such_a_link() -> None:
    page = claims.ledger_html(claims.read_claims()).data
    links = {place for _, place, *_ in numbered.LINK.findall(page)}
    assert {"tab-pooled", "fig-roc", "equation-eq-metrics"} <= links
    without = numbered.with_numbers(page, dict.fromkeys(links, "Table 1"))
    assert "table: " not in without and "figure: " not in without and "equation: " not in without
