"""An archive is unpacked whole into its own folder, or not at all."""

import os
import shutil
import stat
import struct
import zipfile
import zlib
from base64 import b64decode
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodulebook.core.errors import InputError
from nodulebook.download.unpack import MARKER, is_unpacked, unpack

USAGE = namedtuple("USAGE", "total used free")
VOXELS = np.random.default_rng(0).integers(-1000, 400, 60_000).astype(np.int16).tobytes()


def zip_of(path: Path, files: dict[str, bytes], change: Callable | None = None) -> Path:
    """An archive; `change` may alter each ZipInfo before it is written."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo("x")
            info.filename = info.orig_filename = name  # as it is: the constructor would mend it
            info.compress_type = zipfile.ZIP_DEFLATED
            if change:
                change(info)
            archive.writestr(info, content)
    return path


def raw_zip(path: Path, name: str, packed: bytes, method: int, size: int, crc: int) -> Path:
    """An archive of one entry, with any header (APPNOTE.TXT, 4.3.7, 4.3.12, 4.3.16)."""
    about = struct.pack("<HHHHIIIHH", 0, method, 0, 33, crc, len(packed), size, len(name), 0)
    local = b"PK\x03\x04" + struct.pack("<H", 20) + about + name.encode() + packed
    central = b"PK\x01\x02" + struct.pack("<HH", 20, 20) + about
    central += struct.pack("<HHHII", 0, 0, 0, 0, 0) + name.encode()
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 1, 1, len(central), len(local), 0)
    path.write_bytes(local + central + end)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("inside", ["subset0/", ""])
def test_an_archive_becomes_a_folder_of_its_name(tmp_path: Path, inside: str) -> None:
    files = {f"{inside}a.mhd": b"header", f"{inside}a.raw": VOXELS, f"{inside}b/c.raw": b""}
    path = zip_of(tmp_path / "subset0.zip", {"subset0/": b""} | files)
    unpack(path, tmp_path / "subset0", "md5:1")
    found = contents(tmp_path / "subset0")
    assert found.pop(MARKER)
    assert found == {"a.mhd": b"header", "a.raw": VOXELS, "b/c.raw": b""}
    assert sorted(os.listdir(tmp_path)) == ["subset0", "subset0.zip"]
    assert is_unpacked(tmp_path / "subset0")


@settings(max_examples=15, deadline=None)
@given(
    st.dictionaries(
        st.text("abc0_", min_size=1, max_size=8),
        st.binary(max_size=200),
        min_size=1,
        max_size=5,
    )
)
def test_every_byte_comes_back(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    folder = tmp_path_factory.mktemp("zip")
    unpack(zip_of(folder / "any.zip", files), folder / "any", "")
    found = contents(folder / "any")
    del found[MARKER]
    assert found == files


DEFLATE64 = b64decode(
    "7cEDgBxBEADAzX9s27Zt27Zt27Zt27Zt27ZtJ4+7v8Wgu2erfLm5ubu7+/7Bz09+f/H3m/8/AvwV8J9A/wX2IIhHQT0J"
    "5llwL0J4FdKbUN6FdiCMI2EdCudYeCciOBPRqUjORfZBFJ9E9VE0n0V3IYYrMV2K5VpsHeLoEVeXePrE1ymBXgl1S6Rf"
    "YgOSGJHUkGTGJDcohVEpDUtlXGoT0piR1pR05qQ3KYNZGU3LZF5mC7JYkdWSbNZktyiHVTkty2VdbgbysJCXiXxs5Gek"
    "ACsFmSnETmGGirBUlKlibBVnrARrJZkrxV5pDsrwUJaLcnyU56QCLxW5qcRPZY6q8FSVq2p8VeesBm81uavFX20B6ohQ"
    "V4h6YtQXpIEoDYVpJE5jgZqI1FSoZmI1F6yFaC2FayVeawnayNBWinZytJekgywdpekkT2eJusjUVapucnWXrIdsPaXr"
    "JV9vAPpA0BeEfjD0B2IAFAPBGATHYECGQDIUlGGwDAdmBDQjwRkFz2iAxkA0FqRxMI0HagJUE8GaBNdkwKZANhW0abBN"
    "B24GdDPBmwXfbATmYDAXhXk4zEdiARYL0ViEx2JElmCyFJVluCxHZgU2K9FZhc9qhNZgtBaldTitR2oDVhvR2oTXZsS2"
    "YLYVtW24bUduB3Y70duF324C9lCwl4R9NOwn4gAVB8k4RMdhQo5QcpSUY7QcJ+YENSfJOUXPaYLOUHSWpHM0nSfqAlUX"
    "ybpE12XCrlB2lbRrtF0n7gZ1N8m7Rd9tBdxRwV0l3FPDfUU8UMVDZTxSx2OFPFHJU6U8U8tzxbxQzUvlvFLPawW9UdFb"
    "Jb1T03tFfVDVR2V9UtdnhX1R2VelfVObZt//0+z7f5p9/0+z7/9p9v0/zb7/p9n3/zT7J9R3"
)
"""`RUNS`, packed with Deflate64's own codes: zlib refuses it. Packed once, since the compressor of
the package, which nothing here needs, can end the interpreter."""
RUNS = b"".join(bytes([k]) * k for k in range(256)) + bytes(500_000)


def test_deflate64_is_read_as_deflate_is(tmp_path: Path) -> None:
    with pytest.raises(zlib.error):
        zlib.decompress(DEFLATE64, -15)
    path = raw_zip(tmp_path / "s.zip", "s/a.raw", DEFLATE64, 9, len(RUNS), zlib.crc32(RUNS))
    unpack(path, tmp_path / "s", "")
    assert (tmp_path / "s" / "a.raw").read_bytes() == RUNS


def test_an_older_folder_is_replaced_only_by_a_whole_one(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "old").write_text("old")
    bad = zip_of(tmp_path / "s.zip", {"new": VOXELS})
    bad.write_bytes(bad.read_bytes().replace(b"PK\x05\x06", b"PK\x05\x07"))
    with pytest.raises(InputError):
        unpack(bad, tmp_path / "s", "")
    assert contents(tmp_path / "s") == {"old": b"old"}
    unpack(zip_of(tmp_path / "s.zip", {"new": b"new"}), tmp_path / "s", "")
    assert set(contents(tmp_path / "s")) == {"new", MARKER}


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".s.k1ll3d").mkdir()
    (tmp_path / ".s.k1ll3d" / "half.raw").write_bytes(b"half")
    unpack(zip_of(tmp_path / "s.zip", {"a": b"a"}), tmp_path / "s", "")
    assert sorted(os.listdir(tmp_path)) == ["s", "s.zip"]


def test_a_folder_that_lost_a_file_or_a_byte_is_not_whole(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "s.zip", {"a": b"aa", "b": b"bb"})
    for harm in (
        lambda s: (s / "a").unlink(),
        lambda s: (s / "b").write_bytes(b"b"),
        lambda s: (s / MARKER).unlink(),
        lambda s: (s / MARKER).write_text("{}"),
        lambda s: (s / MARKER).write_text("half a"),
        shutil.rmtree,
    ):
        unpack(path, tmp_path / "s", "")
        assert is_unpacked(tmp_path / "s")
        harm(tmp_path / "s")
        assert not is_unpacked(tmp_path / "s")


# ---------------------------------------------------------------------------- what is refused


def link(info: zipfile.ZipInfo) -> None:
    info.external_attr = (stat.S_IFLNK | 0o777) << 16


def device(info: zipfile.ZipInfo) -> None:
    info.external_attr = (stat.S_IFCHR | 0o666) << 16


def two(name: str, other: str) -> dict[str, bytes]:
    return {name: b"1", other: b"2"}


UNSAFE = {
    "leads up": ({"../evil": b"x"}, None, "leads out of the folder"),
    "leads up, deeper": ({"s/../../evil": b"x"}, None, "leads out of the folder"),
    "absolute": ({"/tmp/evil": b"x"}, None, "absolute"),
    "a drive": ({"C:/evil": b"x"}, None, "absolute"),
    "backslashes": ({"..\\evil": b"x"}, None, "absolute"),
    "only a dot": ({".": b"x"}, None, "has no name"),
    "a link": ({"a": b"/etc/passwd"}, link, "is a link"),
    "a device": ({"a": b"x"}, device, "special file"),
    "twice by case": (two("scan.raw", "SCAN.raw"), None, "over another file"),
    "twice by dots": (two("a/b", "a/./b"), None, "over another file"),
    "our own marker": ({MARKER: b"{}"}, None, "over another file"),
    "a file as folder": (two("B/x", "b"), None, "over another file"),
    "nothing": ({}, None, "holds no files"),
    "folders only": ({"s/": b""}, None, "holds no files"),
}


@pytest.mark.parametrize("case", UNSAFE)
def test_an_unsafe_archive_writes_nothing(tmp_path: Path, case: str) -> None:
    files, change, part = UNSAFE[case]
    inside = tmp_path / "in"
    inside.mkdir()
    path = zip_of(inside / "s.zip", files, change)
    with pytest.raises(InputError) as error:
        unpack(path, inside / "s", "")
    assert "s.zip" in str(error.value) and part in str(error.value)
    assert os.listdir(inside) == ["s.zip"] and os.listdir(tmp_path) == ["in"]


def test_a_name_with_a_nul_is_refused(tmp_path: Path) -> None:
    path = raw_zip(tmp_path / "s.zip", "a\0b", b"x", 0, 1, zlib.crc32(b"x"))
    with pytest.raises(InputError, match="no path"):
        unpack(path, tmp_path / "s", "")


def test_an_encrypted_entry_is_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "s.zip", {"a": b"x"})
    bytes_ = bytearray(path.read_bytes())
    bytes_[bytes_.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes_)
    with pytest.raises(InputError, match="encrypted"):
        unpack(path, tmp_path / "s", "")


def cut_end(data: bytes) -> bytes:
    return data[:-30]


def cut_middle(data: bytes) -> bytes:
    return data[:2000] + data[-200:]


def flip(data: bytes) -> bytes:
    return data[:5000] + bytes([data[5000] ^ 255]) + data[5001:]


@pytest.mark.parametrize("harm", [cut_end, cut_middle, flip, lambda _: b"", lambda _: b"<html>"])
def test_a_damaged_archive_is_named_and_leaves_nothing(
    tmp_path: Path, harm: Callable[[bytes], bytes]
) -> None:
    path = zip_of(tmp_path / "s.zip", {"s/a.raw": VOXELS})
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(InputError, match=r"s\.zip: a damaged archive .*download it again"):
        unpack(path, tmp_path / "s", "")
    assert os.listdir(tmp_path) == ["s.zip"]


@pytest.mark.parametrize("method", [0, 8, 9])
@pytest.mark.parametrize("listed", [10, len(RUNS) * 3])
def test_no_entry_differs_from_the_size_listed(tmp_path: Path, method: int, listed: int) -> None:
    zlib_raw = zlib.compressobj(wbits=-15)
    deflated = zlib_raw.compress(RUNS) + zlib_raw.flush()
    packed = {0: RUNS, 8: deflated, 9: DEFLATE64}[method]
    path = raw_zip(tmp_path / "s.zip", "a", packed, method, listed, zlib.crc32(RUNS))
    with pytest.raises(InputError, match="damaged archive"):
        unpack(path, tmp_path / "s", "")
    assert os.listdir(tmp_path) == ["s.zip"]


@pytest.mark.parametrize("harm", ["crc", "stream", "cut"])
def test_damage_within_deflate64_is_found(tmp_path: Path, harm: str) -> None:
    packed = b"\xff" * 100 + DEFLATE64[100:] if harm == "stream" else DEFLATE64
    crc = zlib.crc32(RUNS) ^ (harm == "crc")
    path = raw_zip(tmp_path / "s.zip", "a", packed, 9, len(RUNS), crc)
    if harm == "cut":  # the entry claims to begin later than it does
        data = bytearray(path.read_bytes())
        data[26:28] = struct.pack("<H", 200)
        path.write_bytes(data)
    with pytest.raises(InputError, match="damaged archive"):
        unpack(path, tmp_path / "s", "")
    assert os.listdir(tmp_path) == ["s.zip"]


def test_a_packing_that_is_unknown_is_named(tmp_path: Path) -> None:
    path = raw_zip(tmp_path / "s.zip", "a", b"x", 97, 1, 0)
    with pytest.raises(InputError, match=r"s\.zip: packed in a way"):
        unpack(path, tmp_path / "s", "")


def test_the_disk_is_looked_at_before_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zip_of(tmp_path / "s.zip", {"a": VOXELS})
    free = len(VOXELS) - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: USAGE(free, 0, free))
    with pytest.raises(InputError, match=r"unpacking s\.zip needs 0\.1 MB, .* 0\.1 MB free"):
        unpack(path, tmp_path / "s", "")
    assert os.listdir(tmp_path) == ["s.zip"]
