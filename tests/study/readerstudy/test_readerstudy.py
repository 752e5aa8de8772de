"""The reader study: the page in a real browser, and its answers as percentages."""

import io
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from playwright.sync_api import expect

from browser import opened
from nodulebook.core.errors import InputError
from study.figures.pictures import plane_picture, scroll_view
from study.readerstudy import page as rs

RANDOM = np.random.default_rng(0)
VOLUMES = RANDOM.integers(-1000, 400, (2, 32, 32, 32)).astype(np.int16)
MAPS = RANDOM.random((2, 32, 32, 32)).astype(np.float32)
HEAD = ",".join(rs.ANSWER_COLUMNS) + "\n"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "study.html"
    maps = {"guided_grad_cam_plus_plus": MAPS, "guided_backpropagation": 1 - MAPS}
    questions = rs.class_questions(["n-1", "n-2"], VOLUMES, maps, [0, 1])
    questions += rs.trust_questions(["n-1"], VOLUMES, (MAPS, 1 - MAPS), better=1)
    rs.write_page(path, questions, "made", "Made of noise </script> <b>for a test</b>.")
    return path


def test_two_answers_given_in_a_browser_come_out_as_percentages(page, tmp_path):
    with opened(page) as tab:
        assert tab.evaluate("document.getElementById('source').textContent").endswith("test</b>.")
        tab.evaluate("document.getElementById('begin').click()")  # without a name
        assert not tab.evaluate("document.getElementById('wrong').hidden")
        tab.evaluate("document.getElementById('reader').value = 'r1'")
        tab.evaluate("document.getElementById('begin').click()")
        given = {}
        while len(given) < 2:
            tab.wait_for_function(
                "[...document.images].length > 0 && [...document.images].every(i => i.complete)"
            )
            assert tab.evaluate("[...document.images].every(i => i.naturalWidth > 500)")
            question = tab.evaluate("study.questions[now].id")
            part = tab.evaluate("study.questions[now].part")
            if part == "class":  # the first is answered right, the second wrong
                truth = tab.evaluate("study.questions[now].truth")
                other = {"benign": "malignant", "malignant": "benign"}[truth]
                given[question] = other if given else truth
                answer = given[question]
            else:
                answer = "0"
            tab.evaluate(f"document.querySelector('[data-answer=\"{answer}\"]').click()")
        with tab.expect_download() as download:
            tab.evaluate("document.getElementById('export').click()")
        file = tmp_path / download.value.suggested_filename
        download.value.save_as(file)
        assert file.name == "answers-r1.csv" and file.read_text().count("\n") >= 3
        # Loaded again, the page goes on where the reader stopped.
        tab.goto(page.resolve().as_uri())
        tab.evaluate("document.getElementById('reader').value = 'r1'")
        tab.evaluate("document.getElementById('begin').click()")
        assert tab.evaluate("Object.keys(answers).length") >= 2
    answers = rs.read_answers([file])
    answers = answers[answers["part"] == "class"]
    assert dict(zip(answers["question"], answers["answer"], strict=True)) == given
    assert set(answers["reader"]) == {"r1"}
    right = (answers["answer"] == answers["truth"]).mean()
    assert right == 0.5
    percentages = rs.class_percentages(answers)
    weights = answers["method"].value_counts()
    assert sum(percentages[m].estimate * weights[m] for m in percentages) / 2 == 0.5


def test_the_page_needs_nothing_from_elsewhere(page):
    text = page.read_text()
    assert "http" not in re.sub(r"data:image/png;base64,[\w+/=]+", "", text)
    assert text.count("</script>") == 2  # the text about the study did not end one
    assert text.count("data:image/png") == 4 * 2 + 3


def answers_file(path, *rows):
    path.write_text(HEAD + "".join(row + "\n" for row in rows))
    return path


def test_percentages_by_hand(tmp_path):
    technique = "guided_grad_cam_plus_plus"
    rows = [
        f"s,r1,c-{k},class,{technique},n-{k},malignant,{answer}"
        for k, answer in enumerate(["malignant"] * 3 + ["benign"])
    ]
    # Trust: 2 for B where B is better, 1 for B where A is better: (2 - 1) / 2.
    rows += [f"s,r1,t-1,trust,{technique},n-1,B,2", f"s,r1,t-2,trust,{technique},n-2,A,1"]
    answers = rs.read_answers([answers_file(tmp_path / "r1.csv", *rows)])
    value = rs.class_percentages(answers)[technique]
    assert value.estimate == 0.75
    assert 0 <= value.low < 0.75 < value.high == 1
    assert rs.trust_score(answers).estimate == 0.5
    table = rs.answer_table(answers)
    assert table["result"].iloc[0].startswith("75.0 (")
    assert table["answers"].tolist() == ["4", "2"]


def test_several_readers_are_pooled(tmp_path):
    files = [
        answers_file(tmp_path / f"{r}.csv", f"s,{r},c-1,class,deconvolution,n-1,benign,{answer}")
        for r, answer in (("r1", "benign"), ("r2", "malignant"))
    ]
    assert rs.class_percentages(rs.read_answers(files))["deconvolution"].estimate == 0.5
    assert rs.trust_score(rs.read_answers(files)) is None


@pytest.mark.parametrize(
    "row, message",
    [
        ("s,r,c-1,class,deconvolution,n-1,benign,maybe", "line 2: answer is 'maybe'"),
        ("s,r,t-1,trust,deconvolution,n-1,A,3", "line 2: answer is '3'"),
        ("s,r,c-1,vote,deconvolution,n-1,benign,benign", "line 2: part is 'vote'"),
        ("s,r,c-1,class,deconvolution,n-1,A,benign", "line 2: truth is 'A'"),
    ],
)
def test_wrong_answers_files_are_named(tmp_path, row, message):
    with pytest.raises(InputError, match=rf"r\.csv: {message}"):
        rs.read_answers([answers_file(tmp_path / "r.csv", row)])


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    row = "s,r,c-1,class,deconvolution,n-1,benign,benign"
    one = answers_file(tmp_path / "one.csv", row)
    with pytest.raises(InputError, match=r"one\.csv: line 2: .*'c-1', .*twice"):
        rs.read_answers([one, one])
    other = answers_file(tmp_path / "other.csv", row.replace("s,r", "S,q"))
    with pytest.raises(InputError, match=r"other\.csv: line 2: study is 'S'"):
        rs.read_answers([one, other])
    with pytest.raises(InputError, match="no answers"):
        rs.read_answers([])
    with pytest.raises(InputError, match=r"none\.csv: .*no answers"):
        rs.read_answers([answers_file(tmp_path / "none.csv")])


def test_truth_of_trust_follows_the_better_network():
    for better in (0, 1):
        names = [f"n-{k}" for k in range(2)] * 5
        volumes, maps = np.concatenate([VOLUMES] * 5), np.concatenate([MAPS] * 5)
        questions = rs.trust_questions(names, volumes, (maps, 1 - maps), better)
        first = [rs.patch_picture(volumes[k], maps[k]) for k in range(10)]
        for question, picture in zip(questions, first, strict=True):
            shown_first = dict(question.pictures)["A"] == picture  # network 0 is A
            assert (question.truth == "A") == (shown_first == (better == 0))
        assert {q.truth for q in questions} == {"A", "B"}


def test_the_slices_of_a_view_scroll_without_a_server(tmp_path):
    mask = np.zeros((32, 32, 32), bool)
    mask[10:20, 10:20, 10:20] = True
    view = scroll_view(VOLUMES[0], mask, {"Grad-CAM++": MAPS[0]}, "view-1")
    path = tmp_path / "view.html"
    path.write_text(f"<!DOCTYPE html><meta charset=utf-8><body>{view.data}</body>")
    with opened(path) as tab:
        image = "document.querySelector('#view-1 img').src"
        before = tab.evaluate(image)
        tab.evaluate(
            "{const s = document.querySelector('#view-1 input'); s.value = 3;"
            " s.dispatchEvent(new Event('input'))}"
        )
        assert tab.evaluate(image) != before
        assert tab.evaluate("document.querySelector('#view-1 output').textContent") == "3"
        assert len({one.get_attribute("src") for one in tab.locator("#view-1 img").all()}) == 1


def test_each_panel_of_a_view_shows_its_own_map_and_a_telephone_two_in_a_row(tmp_path):
    none = np.zeros((32, 32, 32), bool)
    heats = {name: np.full((32, 32, 32), heat) for name, heat in (("low", 0.0), ("high", 1.0))}
    view = scroll_view(VOLUMES[0], none, heats, "view-1")
    path = tmp_path / "view.html"
    path.write_text(f"<!DOCTYPE html><meta charset=utf-8><body>{view.data}</body>")
    with opened(path) as tab:
        shown = [one.screenshot() for one in tab.locator("#view-1 img").all()]
        seen = [np.asarray(Image.open(io.BytesIO(one)).convert("RGB"), float) for one in shown]
        expected = [
            plane_picture(VOLUMES[0][16], none[16], heat)
            for heat in (None, heats["low"][16], heats["high"][16])
        ]
        for picture, wanted in zip(seen, expected, strict=True):
            assert picture.shape == wanted.shape
            assert np.abs(picture - wanted)[3:-3, 3:-3].mean() < 8  # 64 colours
        tab.set_viewport_size({"width": 390, "height": 800})
        boxes = [one.bounding_box() for one in tab.locator("#view-1 img").all()]
        assert [round(box["y"]) for box in boxes][:2] == [round(boxes[0]["y"])] * 2
        assert boxes[2]["y"] > boxes[0]["y"] + boxes[0]["height"]
        assert min(box["width"] for box in boxes) > 140


def test_the_wheel_moves_the_planes_and_at_the_last_the_page(tmp_path):
    view = scroll_view(VOLUMES[0], np.zeros((32, 32, 32), bool), {"map": MAPS[0]}, "view-1")
    path = tmp_path / "view.html"
    path.write_text(
        f"<!DOCTYPE html><meta charset=utf-8><body>{view.data}<p style='height: 5000px'></p></body>"
    )
    with opened(path) as tab:
        shown, image = tab.locator("#view-1 output"), tab.locator("#view-1 img").first
        first = image.get_attribute("src")
        image.hover()
        for by, plane in ((100, 18), (-100, 17), *((100, plane) for plane in range(18, 33))):
            tab.mouse.wheel(0, by)
            expect(shown).to_have_text(str(plane))
            assert tab.evaluate("window.scrollY") == 0
            assert (image.get_attribute("src") == first) == (plane == 17)
        tab.mouse.wheel(0, 100)
        tab.wait_for_function("window.scrollY > 20")
        down = tab.evaluate("window.scrollY")
        tab.keyboard.press("PageDown")  # the keyboard scrolls the page as ever
        tab.wait_for_function(f"window.scrollY > {down} + 100")
        expect(shown).to_have_text("32")


def test_the_order_of_questions_is_fixed(page, tmp_path):
    questions = rs.class_questions(["n-1"], VOLUMES[:1], {"deconvolution": MAPS[:1]}, [1]) * 3
    for name in ("a", "b"):
        rs.write_page(tmp_path / f"{name}.html", questions, "s", "x")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    with pytest.raises(InputError, match="at least one question"):
        rs.write_page(tmp_path / "c.html", [], "s", "x")
    assert isinstance(rs.answer_table(pd.DataFrame(columns=list(rs.ANSWER_COLUMNS))), pd.DataFrame)
