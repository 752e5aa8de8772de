"""Which processor this is, as far as it decides in what order sums are added.

The libraries of TensorFlow choose their loops by instruction set and by the sizes of the caches,
so two processors of one name may round differently.
"""

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")

INSTRUCTIONS = ("avx", "fma", "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")
"""Sets that such libraries ask for, each after those it is added to."""


def processor_text(cpuinfo: Path = CPUINFO, caches: Path = CACHES) -> str:
    """Maker, family, model, instruction sets and cache sizes; empty where they are not to be had.

    Args:
        cpuinfo: Linux's description of the processors.
        caches: the folder with a folder `index*` for each cache of the first of them.

    Returns:
        For example "AuthenticAMD family 25 model 17; avx fma avx2 avx512f; caches 32K 32K 1024K".
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
        sizes = [path.read_text().strip() for path in sorted(caches.glob("index*/size"))]
    except (OSError, UnicodeDecodeError):
        return ""
    pairs = (line.partition(":") for line in lines)
    found = {name.strip(): value.strip() for name, _, value in pairs}
    if "vendor_id" not in found:
        return ""
    flags = set(found.get("flags", "").split())
    family, model = (found.get(key, "?") for key in ("cpu family", "model"))
    sets = " ".join(one for one in INSTRUCTIONS if one in flags)
    caches_text = " ".join(sizes) or "not known"
    return f"{found['vendor_id']} family {family} model {model}; {sets}; caches {caches_text}"
