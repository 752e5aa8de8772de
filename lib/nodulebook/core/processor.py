"""Which processor this is, as far as it decides in what order sums are added.

The libraries of TensorFlow choose their loops by instruction set and by the sizes of the caches,
so two processors of one name may round differently.
"""

import os
from pathlib import Path

from joblib import cpu_count

CPUINFO = Path("/proc/cpuinfo")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")

CGROUP = Path("/sys/fs/cgroup")

INSTRUCTIONS = ("avx", "fma", "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")
"""Sets that such libraries ask for, each after those it is added to."""


def processor_text(cpuinfo: Path = CPUINFO, caches: Path = CACHES) -> str:
    """Maker, family, model, instruction sets and cache sizes; empty where they are not to be had.

    For example "AuthenticAMD family 25 model 17; avx fma avx2 avx512f; caches 32K 32K 1024K", from
    Linux's description of the processors and the folders `index*` of the first one's caches.
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


def usable_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its control group's limit."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # a system that does not tell
        memory = 8 << 30
    limits = [CGROUP / "memory.max", CGROUP / "memory" / "memory.limit_in_bytes"]
    try:
        own = Path("/proc/self/cgroup").read_text(encoding="utf-8").strip().rpartition("::/")[2]
        limits += [folder / "memory.max" for folder in (CGROUP / own, *(CGROUP / own).parents)]
    except OSError:  # not Linux
        pass
    for path in limits:
        try:
            memory = min(memory, int(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return memory


def usable_cores() -> int:
    """Cores that this process may use: by affinity and by its control group's quota."""
    return int(cpu_count())
