"""A re-run says what is known to differ, and does not name a cause that it does not know."""

import pytest

from study.experiments.again import Again

EPYC, XEON = "AMD EPYC", "Intel Xeon"


@pytest.mark.parametrize(
    ("processors", "same_code", "identical"),
    [
        ((EPYC, EPYC), True, True),
        ((EPYC, XEON), True, False),
        ((EPYC, EPYC), False, False),
        ((EPYC, EPYC), None, False),
        (("", ""), True, False),
    ],
)
def test_only_the_same_processor_and_code_promise_the_same_numbers(
    processors, same_code, identical
):
    reason = Again(0.1, 0.9, 0.8, *processors, same_code).reason
    assert ("identical" in reason) == identical
    assert identical or "code" in reason
