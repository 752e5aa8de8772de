"""What a run says of the processor that it was made on."""

from pathlib import Path

from nodulebook.core.processor import processor_text

CPUINFO = """\
processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 1
model name\t: AMD EPYC
flags\t\t: fpu sse2 avx fma avx2 aes

processor\t: 1
vendor_id\t: Other
flags\t\t: avx512f
"""


def _files(tmp_path: Path, text: str) -> tuple[Path, Path]:
    cpuinfo, caches = tmp_path / "cpuinfo", tmp_path / "cache"
    cpuinfo.write_text(text)
    for index, size in enumerate(("32K", "32K", "512K")):
        (caches / f"index{index}").mkdir(parents=True)
        (caches / f"index{index}" / "size").write_text(f"{size}\n")
    return cpuinfo, caches


def test_the_first_processor_is_told(tmp_path: Path) -> None:
    cpuinfo, caches = _files(tmp_path, CPUINFO)
    expected = "AuthenticAMD family 25 model 1; avx fma avx2; caches 32K 32K 512K"
    assert processor_text(cpuinfo, caches) == expected
    assert processor_text(cpuinfo, tmp_path / "none") == (
        "AuthenticAMD family 25 model 1; avx fma avx2; caches not known"
    )


def test_where_nothing_is_said_nothing_is_told(tmp_path: Path) -> None:
    cpuinfo, caches = _files(tmp_path, "processor : 0\nBogoMIPS : 50\n")
    assert processor_text(cpuinfo, caches) == ""
    assert processor_text(tmp_path / "none", caches) == ""
