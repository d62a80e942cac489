"""Tests of shared memory that clients may truncate, remove or rewrite at any time."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from turnout_server.core.errors import AlreadyExists, InvalidRequest, NotFound, Overloaded
from turnout_server.wire.shared_memory import DIRECTORY, SharedMemory


@pytest.fixture
def path() -> Iterator[Path]:
    """A shared-memory object of 64 bytes: 0, 1, 2, ..."""
    path = DIRECTORY / f"turnout-test-{uuid.uuid4().hex}"
    path.write_bytes(bytes(range(64)))
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def memory() -> SharedMemory:
    return SharedMemory(limit=3)


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_region_is_read_and_written_at_its_offset(memory: SharedMemory, path: Path, slash: str) -> None:
    memory.register("r", f"{slash}{path.name}", 16, 32)
    region = memory.find("r")
    assert region.read(0, 4) == bytes([16, 17, 18, 19])
    assert region.read(28, 4) == bytes([44, 45, 46, 47])
    assert region.read(32, 0) == b""
    region.write(1, b"xyz")
    assert path.read_bytes()[16:21] == b"\x10xyz\x14"


def test_82_what_was_read_does_not_change_when_its_client_writes(memory: SharedMemory, path: Path) -> None:
    memory.register("r", path.name, 0, 64)
    read = memory.find("r").read(0, 8)
    path.write_bytes(bytes(64))
    assert bytes(read) == bytes(range(8))


@pytest.mark.parametrize(
    "key", ["", "/", "//", "///", ".", "..", "/.", "/..", "a/b", "/../etc/passwd", "a\0b", "x" * 300, "é" * 200]
)
def test_77_a_key_that_is_no_plain_name_is_refused_without_repeating_it(memory: SharedMemory, key: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        memory.register("r", key, 0, 1)
    assert len(key) < 4 or key not in str(caught.value)
    assert memory.regions("") == []


def test_83_a_missing_object_is_refused_with_the_regions_name_but_not_its_key(memory: SharedMemory) -> None:
    with pytest.raises(InvalidRequest, match="Unable to open shared memory region: 'r': No such file") as caught:
        memory.register("r", "secret-of-another-client", 0, 1)
    assert "secret" not in str(caught.value)


def test_77_links_directories_and_pipes_are_refused(memory: SharedMemory, path: Path, tmp_path: Path) -> None:
    link, directory, pipe = (path.with_name(f"{path.name}-{kind}") for kind in ("link", "directory", "pipe"))
    link.symlink_to(tmp_path)
    directory.mkdir()
    os.mkfifo(pipe)
    try:
        for irregular in (link, directory, pipe):
            with pytest.raises(InvalidRequest):
                memory.register("r", irregular.name, 0, 1)
    finally:
        link.unlink()
        directory.rmdir()
        pipe.unlink()


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 65), (1, 64), (64, 1), (0, 0), (32, 2**64 - 32), (2**64 - 1, 1), (2**63, 2**63)]
)
def test_a_range_outside_the_object_is_refused_at_registration(
    memory: SharedMemory, path: Path, offset: int, size: int
) -> None:
    with pytest.raises(InvalidRequest, match="is not within the object's 64"):
        memory.register("r", path.name, offset, size)


@pytest.mark.parametrize(("offset", "size"), [(0, 33), (32, 1), (1, 32), (-1, 1), (2**64, 1), (0, 2**64)])
def test_a_range_outside_the_region_is_refused_when_it_is_used(
    memory: SharedMemory, path: Path, offset: int, size: int
) -> None:
    memory.register("r", path.name, 0, 32)
    with pytest.raises(InvalidRequest, match="Invalid offset"):
        memory.find("r").read(offset, size)


def test_80_an_object_truncated_after_registration_causes_an_error_and_no_signal(memory: SharedMemory, path: Path) -> None:
    memory.register("r", path.name, 0, 64)
    os.truncate(path, 10)
    with pytest.raises(InvalidRequest, match="gave 10 of 64 bytes: its object was truncated"):
        memory.find("r").read(0, 64)
    memory.find("r").write(0, bytes(64))
    assert path.stat().st_size == 64


def test_81_exhausted_memory_causes_an_error_and_no_signal(
    memory: SharedMemory, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    memory.register("r", path.name, 0, 64)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(Overloaded, match="no memory left behind shared memory region 'r'"):
        memory.find("r").write(0, bytes(64))


def test_85_a_region_unregistered_while_in_use_stays_readable_for_its_users(memory: SharedMemory, path: Path) -> None:
    memory.register("r", path.name, 0, 64)
    in_use = memory.find("r")
    memory.unregister("r")
    with pytest.raises(NotFound, match="Unable to find shared memory region: 'r'"):
        memory.find("r")
    assert in_use.read(0, 2) == b"\0\1"


def test_the_descriptor_of_an_unused_region_is_closed(memory: SharedMemory, path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        memory.register("r", path.name, 0, 64)
        memory.unregister("r")
        with pytest.raises(InvalidRequest):
            memory.register("r", path.name, 0, 65)
    assert len(os.listdir("/proc/self/fd")) == before
    assert path.exists()  # the object is the client's


def test_78_a_name_that_is_in_use_is_refused(memory: SharedMemory, path: Path) -> None:
    memory.register("r", path.name, 0, 64)
    with pytest.raises(AlreadyExists, match="'r' already in manager"):
        memory.register("r", path.name, 0, 32)
    assert memory.find("r").byte_size == 64


def test_a_region_without_a_name_is_refused(memory: SharedMemory, path: Path) -> None:
    with pytest.raises(InvalidRequest, match="needs a name"):
        memory.register("", path.name, 0, 64)


def test_84_the_number_of_regions_is_limited(memory: SharedMemory, path: Path) -> None:
    for number in range(3):
        memory.register(str(number), path.name, 0, 64)
    with pytest.raises(Overloaded, match="unregister some"):
        memory.register("3", path.name, 0, 64)
    memory.unregister("")
    memory.register("3", path.name, 0, 64)
    assert [region.name for region in memory.regions("")] == ["3"]
    memory.unregister("nowhere")  # no error: clients call this first to clean up
