"""Files of a DOI come whole and checked, however the network behaves; else the error is clear.

The repository is a real HTTP server on this machine (`repository_server`).
"""

import os
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nodulebook.core.errors import InputError
from nodulebook.download.transfer import (
    RemoteFile,
    bytes_to_fetch,
    ensure_space,
    fetch,
    os_errors_named,
    zenodo_files,
)
from repository_server import Repository, serving

RECORD = "3723295"
DOI = f"10.5281/zenodo.{RECORD}"
NAME = "subset0.zip"
CONTENT = np.random.default_rng(0).bytes(300_000)
USAGE = namedtuple("USAGE", "total used free")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    with serving(monkeypatch) as repository:
        yield repository


def listed(name: str = NAME) -> RemoteFile:
    return zenodo_files(DOI)[name]


def names(folder: Path) -> list[str]:
    return sorted({path.name for path in folder.iterdir()} - {f".{NAME}.lock"})


# ------------------------------------------------------------------------- what a DOI lists


@pytest.mark.parametrize("new_form", [False, True])
def test_the_files_of_a_doi_come_with_size_and_checksum(server: Repository, new_form: bool) -> None:
    server.new_form = new_form
    server.add(RECORD, NAME, b"abc")
    server.add(RECORD, "annotations.csv", b"")
    files = zenodo_files(DOI)
    assert set(files) == {NAME, "annotations.csv"}
    assert files[NAME].size == 3
    assert files[NAME].checksum == "md5:900150983cd24fb0d6963f7d28e17f72"  # RFC 1321
    server.add(RECORD, "../evil", b"")
    server.add(RECORD, "read me", b"")
    assert set(zenodo_files(DOI)) == {NAME, "annotations.csv"}
    if not new_form:
        assert files[NAME].url.startswith(server.site)


@pytest.mark.parametrize(
    ("status", "answer", "part"),
    [
        (404, b'{"status": 404}', "404"),
        (403, b"", "403"),
        (200, b"<html>log in</html>", "JSON"),
        (500, b"", "500"),
        (200, b"[]", "not a list of files"),
        (200, b"{}", "not a list of files"),
        (200, b'{"files": [{"name": "subset0.zip"}]}', "not a list of files"),
        (200, b'{"files": [{"key": "a", "size": 1}]}', "not a list of files"),
        (
            200,
            b'{"files": [{"key": "a", "size": 1, "checksum": "md5:1", "links": {"self": "x"}}]}',
            "checksum listed is 'md5:1'",
        ),
        (
            200,
            b'{"files": [{"key": "a", "size": "big", "checksum": "md5:1", "links": {"self": ""}}]}',
            "size listed is 'big'",
        ),
    ],
)
def test_a_list_that_is_none_is_an_error_that_names_the_doi(
    server: Repository, status: int, answer: bytes, part: str
) -> None:
    server.answers[RECORD] = (status, answer)
    with pytest.raises(InputError) as error:
        zenodo_files(DOI)
    assert DOI in str(error.value) and part in str(error.value)


def test_a_repository_that_cannot_be_reached_is_named(
    server: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODULEBOOK_ZENODO", "http://127.0.0.1:9/api/records")
    with pytest.raises(InputError) as error:
        zenodo_files(DOI)
    message = f"{DOI}: given up after 4 tries: http://127.0.0.1:9/api/records/{RECORD} broke off"
    assert message in str(error.value)
    assert "refused" in str(error.value) and "Pool" not in str(error.value)


# ------------------------------------------------------------------------------- the transfer


def test_a_file_comes_whole_under_its_name_and_is_not_fetched_twice(
    server: Repository, tmp_path: Path
) -> None:
    server.add(RECORD, NAME, CONTENT)
    for _ in range(2):
        path = fetch(listed(), tmp_path / "new")
        assert path.read_bytes() == CONTENT
    assert names(tmp_path / "new") == [NAME]
    assert server.asked_for(NAME) == [""]


def test_three_processes_that_want_one_file_download_it_once(
    server: Repository, tmp_path: Path
) -> None:
    stored = server.add(RECORD, NAME, np.random.default_rng(1).bytes(3_000_000))
    stored.hold_after = 2_000_000
    (tmp_path / NAME).write_bytes(b"another file of this name")
    code = (
        "import sys; from pathlib import Path; from nodulebook.download.transfer import *;"
        "fetch(RemoteFile(*sys.argv[1:3], int(sys.argv[3]), sys.argv[4]), Path(sys.argv[5]))"
    )
    file = listed()
    words = [file.name, file.url, str(file.size), file.checksum, str(tmp_path)]
    logs = [(tmp_path / f"log-{k}").open("w+") for k in range(3)]
    processes = [
        subprocess.Popen([sys.executable, "-c", code, *words], stdout=log, stderr=log)
        for log in logs
    ]

    def under_way() -> int:
        """Processes that have asked the server, or wait for the one that did."""
        waiting = sum("waiting" in Path(log.name).read_text() for log in logs)
        return waiting + len(server.asked_for(NAME))

    until = time.monotonic() + 120
    while under_way() < 3 and time.monotonic() < until:
        time.sleep(0.02)
    server.release.set()
    ends = [process.wait(120) for process in processes]
    assert ends == [0, 0, 0], [Path(log.name).read_text() for log in logs]
    assert server.asked_for(NAME) == [""]
    assert (tmp_path / NAME).read_bytes() == stored.content
    assert not (tmp_path / f"{NAME}.part").exists()


def test_an_empty_file_comes_too(server: Repository, tmp_path: Path) -> None:
    server.add(RECORD, NAME, b"")
    assert fetch(listed(), tmp_path).read_bytes() == b""
    assert names(tmp_path) == [NAME]


def test_after_a_broken_connection_only_the_rest_is_sent(
    server: Repository, tmp_path: Path
) -> None:
    server.add(RECORD, NAME, CONTENT, breaks=[100_000])
    fetch(listed(), tmp_path)
    first, second = server.asked_for(NAME)
    start = int(second.removeprefix("bytes=").rstrip("-"))
    assert first == ""
    assert 0 < start <= 100_000
    assert server.sent[NAME] == 100_000 + len(CONTENT) - start


def test_any_number_of_breaks_is_borne_while_bytes_come(server: Repository, tmp_path: Path) -> None:
    server.add(RECORD, NAME, CONTENT, breaks=[20_000] * 12)  # four times as many as tries
    assert fetch(listed(), tmp_path).read_bytes() == CONTENT
    assert len(server.asked_for(NAME)) == 13


def test_breaks_that_bring_nothing_end_in_an_error_and_keep_what_came(
    server: Repository, tmp_path: Path
) -> None:
    stored = server.add(RECORD, NAME, CONTENT, breaks=[50_000, 0, 0, 0, 0, 0, 0])
    with pytest.raises(InputError, match=rf"{NAME}: given up after 4 tries.*same command"):
        fetch(listed(), tmp_path)
    assert names(tmp_path) == [f"{NAME}.part"]
    kept = (tmp_path / f"{NAME}.part").read_bytes()
    assert kept and CONTENT.startswith(kept)
    stored.breaks.clear()
    assert fetch(listed(), tmp_path).read_bytes() == CONTENT
    assert server.asked_for(NAME)[-1] == f"bytes={len(kept)}-"


def test_what_an_earlier_process_left_is_gone_on_with(server: Repository, tmp_path: Path) -> None:
    server.add(RECORD, NAME, CONTENT)
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:123_456])
    assert bytes_to_fetch(listed(), tmp_path) == len(CONTENT) - 123_456
    assert fetch(listed(), tmp_path).read_bytes() == CONTENT
    assert server.asked_for(NAME) == ["bytes=123456-"]
    assert bytes_to_fetch(listed(), tmp_path) == 0


def test_a_server_without_ranges_sends_the_whole_file(server: Repository, tmp_path: Path) -> None:
    server.add(RECORD, NAME, CONTENT, ranges=False, breaks=[100_000])
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:1000])
    assert fetch(listed(), tmp_path).read_bytes() == CONTENT
    assert server.sent[NAME] == 100_000 + len(CONTENT)


def test_a_server_without_ranges_that_always_breaks_is_given_up(
    server: Repository, tmp_path: Path
) -> None:
    server.add(RECORD, NAME, CONTENT, ranges=False, breaks=[100_000, 1_000] * 25)
    with pytest.raises(InputError, match="given up"):
        fetch(listed(), tmp_path)
    assert len(server.asked_for(NAME)) < 15


def test_a_part_that_is_whole_is_only_checked(server: Repository, tmp_path: Path) -> None:
    server.add(RECORD, NAME, CONTENT)
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT)
    assert fetch(listed(), tmp_path).read_bytes() == CONTENT
    assert server.asked_for(NAME) == []


def test_a_part_that_is_too_long_is_thrown_away(server: Repository, tmp_path: Path) -> None:
    server.add(RECORD, NAME, CONTENT)
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT + b"x")
    assert bytes_to_fetch(listed(), tmp_path) == len(CONTENT)
    assert fetch(listed(), tmp_path).read_bytes() == CONTENT


def test_a_range_that_the_server_does_not_have_starts_anew(
    server: Repository, tmp_path: Path
) -> None:
    server.add(RECORD, NAME, CONTENT, statuses=[416])
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:1000])
    assert fetch(listed(), tmp_path).read_bytes() == CONTENT
    assert server.asked_for(NAME) == ["bytes=1000-", ""]


@pytest.mark.parametrize("given", ["", "bytes 0-299999/300000", "bytes 1000-9/9", "nonsense"])
def test_a_wrong_range_in_the_answer_is_not_written(
    server: Repository, tmp_path: Path, given: str
) -> None:
    server.add(RECORD, NAME, CONTENT, headers={"Content-Range": given})
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:1000])
    with pytest.raises(InputError, match=rf"{NAME}: .*from 1000 of 300000"):
        fetch(listed(), tmp_path)
    assert (tmp_path / f"{NAME}.part").read_bytes() == CONTENT[:1000]


def test_a_wrong_checksum_removes_the_file_and_names_it(server: Repository, tmp_path: Path) -> None:
    stored = server.add(RECORD, NAME, CONTENT, checksum="md5:" + "0" * 32)
    with pytest.raises(InputError, match=rf"{NAME}: the checksum .* md5:0000"):
        fetch(listed(), tmp_path)
    assert names(tmp_path) == []
    stored.checksum = ""
    assert fetch(listed(), tmp_path).read_bytes() == CONTENT


def test_a_damaged_beginning_is_found_and_not_kept(server: Repository, tmp_path: Path) -> None:
    server.add(RECORD, NAME, CONTENT)
    (tmp_path / f"{NAME}.part").write_bytes(b"damaged")
    with pytest.raises(InputError, match="checksum"):
        fetch(listed(), tmp_path)
    assert names(tmp_path) == []
    assert fetch(listed(), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("wrong", [CONTENT[:-1], CONTENT[:-1] + b"\0"])
def test_a_file_of_the_name_that_is_another_is_replaced(
    server: Repository, tmp_path: Path, wrong: bytes
) -> None:
    server.add(RECORD, NAME, CONTENT)
    (tmp_path / NAME).write_bytes(wrong)
    assert fetch(listed(), tmp_path).read_bytes() == CONTENT
    assert names(tmp_path) == [NAME]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_refusal_is_an_error_at_once(server: Repository, tmp_path: Path, status: int) -> None:
    server.add(RECORD, NAME, CONTENT, statuses=[status] * 9)
    with pytest.raises(InputError, match=rf"{NAME}: http.* answered {status}"):
        fetch(listed(), tmp_path)
    assert names(tmp_path) == []
    assert len(server.asked_for(NAME)) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_server_in_trouble_is_asked_again(
    server: Repository, tmp_path: Path, status: int
) -> None:
    server.add(RECORD, NAME, CONTENT, statuses=[status, status])
    assert fetch(listed(), tmp_path).read_bytes() == CONTENT
    assert len(server.asked_for(NAME)) == 3


def test_a_server_in_trouble_for_long_is_given_up(server: Repository, tmp_path: Path) -> None:
    server.add(RECORD, NAME, CONTENT, statuses=[503] * 9)
    with pytest.raises(InputError, match=r"given up after 4 tries: .* answered 503"):
        fetch(listed(), tmp_path)
    assert len(server.asked_for(NAME)) == 4


@pytest.mark.parametrize(
    ("given", "waited"), [("7", 7), ("99999", 120), ("Wed, 21 Oct 2026 07:28:00 GMT", 0), ("-1", 0)]
)
def test_the_wait_that_a_server_asks_for_is_kept_within_bounds(
    server: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, waited: float
) -> None:
    server.add(RECORD, NAME, CONTENT, statuses=[429], headers={"Retry-After": given})
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    fetch(listed(), tmp_path)
    assert waits == [waited]


def test_a_page_instead_of_the_file_is_not_kept(server: Repository, tmp_path: Path) -> None:
    server.add(RECORD, NAME, CONTENT, instead=b"<html>please log in</html>")
    with pytest.raises(InputError, match=r"sends 26 bytes, but the DOI lists 300000; .*login"):
        fetch(listed(), tmp_path)
    assert names(tmp_path) == []


def test_an_answer_without_end_is_cut(server: Repository, tmp_path: Path) -> None:
    server.add(RECORD, NAME, CONTENT, instead=CONTENT * 100, chunked=True)
    with pytest.raises(InputError, match="sends more than the 300000 bytes"):
        fetch(listed(), tmp_path)
    assert server.sent[NAME] < 50 * len(CONTENT)  # the rest was not taken
    assert names(tmp_path) == []


def test_an_answer_without_length_that_ends_early_is_gone_on_with(
    server: Repository, tmp_path: Path
) -> None:
    server.add(RECORD, NAME, CONTENT, chunked=True, breaks=[1000])
    assert fetch(listed(), tmp_path).read_bytes() == CONTENT
    assert server.asked_for(NAME) == ["", "bytes=1000-"]


@pytest.mark.parametrize("url", ["", "file:///etc/passwd", "http://", "subset0.zip"])
def test_an_address_that_is_none_is_an_error(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError, match=r"subset0\.zip"):
        fetch(RemoteFile(NAME, url, 3, "md5:" + "0" * 32), tmp_path)
    assert names(tmp_path) == []


# ---------------------------------------------------------------------------------- the disk


def test_a_small_disk_is_refused_with_both_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: USAGE(10**12, 0, 5 * 10**9))
    folder = tmp_path / "not" / "yet"
    ensure_space(folder, 5 * 10**9, "this")
    with pytest.raises(InputError, match=r"not/yet: this needs 12\.3 GB, but .* 5\.0 GB free"):
        ensure_space(folder, 12_300_000_000, "this")
    assert not folder.exists()


def test_a_disk_that_fills_up_is_no_traceback(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(InputError, match=r"No space left on device"), os_errors_named(tmp_path):
        full.write_bytes(b"x")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_folder_that_may_not_be_written_is_named(server: Repository, tmp_path: Path) -> None:
    server.add(RECORD, NAME, CONTENT)
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="Permission denied"), os_errors_named(tmp_path):
        fetch(listed(), tmp_path)
