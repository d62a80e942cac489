from pathlib import Path

import pytest
from turnout_server.devices import host as cgroups


def tree(root: Path, **files: str) -> Path:
    """`own` is `/proc/self/cgroup`; every other name is a file below `/sys/fs/cgroup`."""
    for name, text in files.items():
        path = root / ("proc/self/cgroup" if name == "own" else f"sys/fs/cgroup/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "cores", "memory_bytes"),
    [
        ({}, None, None),
        ({"own": "0::/\n", "cpu.max": "max 100000\n", "memory.max": "max\n"}, None, None),
        ({"own": "0::/\n", "cpu.max": "150000 100000\n", "memory.max": "1048576\n"}, 1.5, 2**20),
        ({"own": "0::/a/b\n", "a/cpu.max": "50000 100000\n", "a/b/cpu.max": "400000 100000\n"}, 0.5, None),
        ({"own": "0::/elsewhere\n", "cpu.max": "200000 100000\n"}, 2, None),
        (
            {
                "own": "4:memory:/x\n3:cpu,cpuacct:/x\n0::/\n",
                "cpu/x/cpu.cfs_quota_us": "300000\n",
                "cpu/x/cpu.cfs_period_us": "100000\n",
                "memory/x/memory.limit_in_bytes": "4096\n",
            },
            3,
            4096,
        ),
        (
            {
                "own": "2:memory:/\n1:cpu:/\n",
                "cpu/cpu.cfs_quota_us": "-1\n",
                "cpu/cpu.cfs_period_us": "100000\n",
                "memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            None,
            None,
        ),
    ],
    ids=["none", "unlimited", "limits", "a group around it", "another's path", "version 1", "version 1, unlimited"],
)
def test_the_tightest_limit_counts(
    tmp_path: Path, files: dict[str, str], cores: float | None, memory_bytes: int | None
) -> None:
    root = tree(tmp_path, **files)
    assert cgroups.quota_cores(root) == cores
    assert cgroups.memory_limit_bytes(root) == memory_bytes


def test_the_memory_that_this_process_uses_is_known_where_the_system_tells(tmp_path: Path) -> None:
    assert cgroups.resident_bytes(tmp_path) == 0
    before = cgroups.resident_bytes()
    kept = bytearray(b"x" * (64 << 20))
    assert cgroups.resident_bytes() - before > len(kept) / 2
