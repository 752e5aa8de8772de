"""Files of a data set with a DOI: listed, downloaded with resumption, checked, then named.

Files of LUNA16 hold 7 GB. A file is kept as `<name>.part` until it has the checksum that the DOI
lists; what has arrived is never fetched again, as long as the server can continue a file (HTTP
status 206).
"""

import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import requests
from tqdm import tqdm

from nodulebook.core.errors import InputError
from nodulebook.core.files import exclusive

ZENODO_API = "https://zenodo.org/api/records"
"""Where records are listed; `NODULEBOOK_ZENODO` names another place (a mirror, a test)."""

WAITS_S: tuple[float, ...] = (1, 3, 10, 30, 60)
"""Waits before each further try, in seconds; the first again once a try has brought some bytes."""

LONGEST_WAIT_S = 120.0
"""The longest that a server may ask to wait (Retry-After), in seconds."""

_TIMEOUTS_S = (15, 60)  # to connect, and between two blocks
_BLOCK = 1 << 20  # bytes
# The file as it lies on the server: packed once more on the way, its length would be another.
_HEADERS = {"User-Agent": "nodulebook", "Accept-Encoding": "identity"}

Result = TypeVar("Result")


@dataclass(frozen=True)
class RemoteFile:
    """A file that a DOI lists: its name, address, size in bytes, and checksum `md5:<hex>`."""

    name: str
    url: str
    size: int
    checksum: str


class _TryAgainError(Exception):
    """The server or the way to it failed; a later try may succeed."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


def say(message: str) -> None:
    """Tell the user, on the standard error stream."""
    tqdm.write(message, file=sys.stderr)  # above a progress bar, where there is one
    sys.stderr.flush()


def in_gb(size: float) -> str:
    """A size in bytes as text, in GB (10^9 bytes), or MB below one."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def zenodo_files(doi: str) -> dict[str, RemoteFile]:
    """The files of a Zenodo DOI, by name; names that are not plain are left out.

    Raises:
        InputError: the repository cannot be reached, does not have the record, or its answer is
            not a list of files with sizes and checksums.
    """
    api = os.environ.get("NODULEBOOK_ZENODO") or ZENODO_API
    url = f"{api.rstrip('/')}/{doi.rpartition('.')[2]}"
    answer = _insist(f"doi {doi}", lambda: _json(doi, url), lambda: 0)
    try:
        files = [_listed(answer, entry) for entry in answer["files"]]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"doi {doi}: the answer of {url} is not a list of files ({error!r})"
        ) from None
    for file in files:
        if not isinstance(file.size, int) or isinstance(file.size, bool) or file.size < 0:
            raise InputError(f"doi {doi}: {file.name}: the size listed is {file.size!r}")
        if not re.fullmatch(r"md5:[0-9a-f]{32}", str(file.checksum).lower()):
            raise InputError(f"doi {doi}: {file.name}: the checksum listed is {file.checksum!r}")
    # A name becomes one on this disk. No file of the data sets has another kind of name.
    return {file.name: file for file in files if re.fullmatch(r"\w[\w.-]*", str(file.name))}


def _json(doi: str, url: str) -> Any:
    with _opened(f"doi {doi}", url, {}) as response:
        try:
            return response.json()
        except requests.exceptions.JSONDecodeError:
            raise _TryAgainError(f"{url} did not answer with JSON") from None


def _listed(answer: Any, entry: Any) -> RemoteFile:
    """A file as Zenodo lists it: today, or in the months after its move to InvenioRDM (2023)."""
    if "key" in entry:
        return RemoteFile(entry["key"], entry["links"]["self"], entry["size"], entry["checksum"])
    name = entry["filename"]
    url = f"https://zenodo.org/records/{answer['id']}/files/{name}?download=1"
    return RemoteFile(name, url, entry["filesize"], f"md5:{entry['checksum']}")


def bytes_to_fetch(file: RemoteFile, folder: Path) -> int:
    """What of the file is still to be downloaded into the folder, by the sizes there."""
    whole, part = folder / file.name, part_path(folder / file.name)
    if _size(whole) == file.size:
        return 0
    return file.size - _size(part) if _size(part) <= file.size else file.size


def part_path(path: Path) -> Path:
    """Where a file is kept until it is whole and checked."""
    return path.with_name(f"{path.name}.part")


def ensure_space(folder: Path, needed: int, what: str) -> None:
    """Refuse to begin what the disk has no room for.

    Args:
        folder: where the files go; it need not exist.
        needed: bytes.
        what: what needs them, for the message.

    Raises:
        InputError: the disk of the folder has fewer bytes free.
    """
    there = folder.resolve()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < needed:
        raise InputError(
            f"{folder}: {what} needs {in_gb(needed)}, but the disk has {in_gb(free)} free; "
            "free some, or name a folder on a larger disk with --to, or ask for less"
        )


@contextmanager
def os_errors_named(folder: Path) -> Iterator[None]:
    """Turn a full disk, a missing permission and the like into an `InputError`."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename or folder}: {error.strerror or error}; mend this and give the "
            "same command again: what has arrived is kept"
        ) from error


def fetch(file: RemoteFile, folder: Path) -> Path:
    """Download a file, or the rest of it; a file that is there and right is left alone.

    Several processes may ask for one file: one downloads it, the others wait for it.

    Returns:
        `folder / file.name`, whole, with the checksum that the DOI lists.

    Raises:
        InputError: the server refuses the file or cannot be reached, or the checksum is wrong
            (the file is then removed).
        OSError: the disk is full or may not be written.
    """
    path = folder / file.name
    if _is_right(path, file):
        return path
    folder.mkdir(parents=True, exist_ok=True)
    # Processes that want the same file take turns: the later ones find it whole.
    waiting = f"{path}: another process is downloading it; waiting"
    with exclusive(folder / f".{file.name}.lock", waiting):
        return path if _is_right(path, file) else _fetch(file, path)


def _fetch(file: RemoteFile, path: Path) -> Path:
    """Download a file that is not there, or is another one; the caller holds its lock."""
    part = part_path(path)
    if path.exists():
        say(f"{path}: not the file that the DOI lists; it is downloaded again")
        path.unlink()
    _insist(file.name, lambda: _transfer(file, part), lambda: _size(part))
    say(f"{file.name}: checking")
    if not _is_right(part, file):
        part.unlink()
        raise InputError(
            f"{path}: the checksum of what was downloaded is not the {file.checksum} that the DOI "
            "lists; it was removed. Give the same command again; if this comes back, a proxy or "
            "the disk damages files"
        )
    os.replace(part, path)
    return path


def _size(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


def _is_right(path: Path, file: RemoteFile) -> bool:
    if not path.is_file() or _size(path) != file.size:
        return False
    algorithm, _, digest = file.checksum.lower().partition(":")
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest() == digest


def _insist(name: str, attempt: Callable[[], Result], progress: Callable[[], int]) -> Result:
    """Try until it succeeds; give up after `WAITS_S` tries in a row without progress."""
    failures, furthest = 0, progress()
    while True:
        try:
            return attempt()
        except _TryAgainError as error:
            # A server that cannot continue a file starts it again: only more than ever counts.
            now = progress()
            failures = 0 if now > furthest else failures + 1
            furthest = max(now, furthest)
            if failures > len(WAITS_S):
                raise InputError(
                    f"{name}: given up after {failures} tries: {error}. What has arrived is kept: "
                    "give the same command again to go on"
                ) from None
            wait_s = max(error.wait_s, WAITS_S[max(failures - 1, 0)] if WAITS_S else 0.0)
            say(f"{name}: {error}; trying again in {wait_s:g} s")
            time.sleep(wait_s)


@contextmanager
def _opened(name: str, url: str, headers: dict[str, str]) -> Iterator[requests.Response]:
    """An answer with status 200, 206 or 416; another, or none, is an error."""
    try:
        with requests.get(
            url, headers=_HEADERS | headers, stream=True, timeout=_TIMEOUTS_S
        ) as response:
            status = response.status_code
            if status in (408, 425, 429) or status >= 500:
                asked = response.headers.get("Retry-After", "")
                wait_s = min(float(asked), LONGEST_WAIT_S) if asked.isdecimal() else 0.0
                raise _TryAgainError(f"{url} answered {status} {response.reason}", wait_s)
            if status not in (200, 206, 416):
                raise InputError(
                    f"{name}: {url} answered {status} {response.reason}; the file may have moved, "
                    "or a proxy may be in the way"
                )
            yield response
    except (
        requests.exceptions.InvalidURL,
        requests.exceptions.InvalidSchema,
        requests.exceptions.MissingSchema,
    ) as error:
        raise InputError(f"{name}: {url!r} is not the address of a file ({error})") from None
    except requests.exceptions.RequestException as error:
        raise _TryAgainError(f"{url} broke off or cannot be reached ({_cause(error)})") from None


def _cause(error: requests.exceptions.RequestException) -> str:
    """What went wrong, without the pools and connections that it went through."""
    inner = error.args[0] if error.args else error
    return re.sub(r"^\w+\(host=.*?\): ", "", str(getattr(inner, "reason", inner)))


def _transfer(file: RemoteFile, part: Path) -> None:
    """One try at the rest of the file."""
    have = _size(part)
    if have == file.size and part.exists():
        return
    if have > file.size:
        part.unlink()
        have = 0
    wanted = {"Range": f"bytes={have}-"} if have else {}
    with _opened(file.name, file.url, wanted) as response:
        if response.status_code == 416:
            # There is no such range: what is here cannot be the beginning of what is there.
            part.unlink(missing_ok=True)
            raise _TryAgainError(f"{file.url} cannot continue at byte {have}")
        start = _start_byte(file, response, have)
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and start + int(length) != file.size:
            raise InputError(
                f"{file.name}: {file.url} sends {start + int(length)} bytes, but the DOI lists "
                f"{file.size}; is a proxy or a login page in the way?"
            )
        with (
            part.open("ab" if start else "wb") as stream,
            tqdm(
                desc=file.name,
                total=file.size,
                initial=start,
                unit="B",
                unit_scale=True,
                disable=None,  # none where the output is no terminal: it would flood a log
            ) as bar,
        ):
            position = start
            for block in response.iter_content(_BLOCK):
                position += len(block)
                if position > file.size:
                    break
                stream.write(block)
                bar.update(len(block))
    if position > file.size:
        part.unlink()
        raise InputError(
            f"{file.name}: {file.url} sends more than the {file.size} bytes that the DOI lists; "
            "what was downloaded is removed"
        )
    if position < file.size:
        raise _TryAgainError(f"{file.url} ended at byte {position} of {file.size}")


def _start_byte(file: RemoteFile, response: requests.Response, have: int) -> int:
    """Where in the file the answer begins: where asked for, or at 0 if the server cannot."""
    if response.status_code == 200:
        return 0
    given = response.headers.get("Content-Range", "")
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", given)
    if not found or int(found[1]) != have or found[2] not in ("*", str(file.size)):
        raise InputError(
            f"{file.name}: {file.url} was asked for the bytes from {have} of {file.size}, but "
            f"answered with {given!r}; delete {file.name}.part and try again"
        )
    return have
