import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from turnout_server.core.datatypes import DATATYPES
from turnout_server.devices.tensor_memory import TensorMemory

SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


def _filled(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    dtype = DATATYPES[name].dtype
    if name == "BYTES":
        texts = ["", "a", "ü\0", "x" * 5000]
        array = np.empty(shape, np.object_)
        array.reshape(-1)[:] = [texts[i] for i in generator.integers(0, len(texts), array.size)]
        return array
    raw = generator.integers(0, 2 if name == "BOOL" else 256, (*shape, dtype.itemsize), np.uint8)
    return np.frombuffer(raw.tobytes(), dtype).reshape(shape)  # any bits at all, NaNs too


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return a.tolist() == b.tolist() if a.dtype.kind == "O" else a.tobytes() == b.tobytes()


ARRAYS = st.builds(_filled, st.sampled_from(sorted(DATATYPES)), SHAPES, st.integers(0, 2**32))


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[TensorMemory, TensorMemory]]:
    """The two ends of one memory, as parent and child have them."""
    ours = TensorMemory()
    theirs = TensorMemory(os.dup(ours.descriptor))
    yield ours, theirs
    ours.close()
    theirs.close()


@given(st.dictionaries(st.text(max_size=3), ARRAYS, max_size=5))
def test_every_array_arrives_bit_for_bit(both: tuple[TensorMemory, TensorMemory], sent: dict[str, np.ndarray]) -> None:
    ours, theirs = both
    received = theirs.get(ours.put(sent))
    assert list(received) == list(sent)
    assert all(_same(received[name], array) for name, array in sent.items())


@given(st.dictionaries(st.integers(), ARRAYS, max_size=3), st.dictionaries(st.integers(), ARRAYS, max_size=3))
def test_each_end_may_answer_in_the_same_memory(
    both: tuple[TensorMemory, TensorMemory], asked: dict[int, np.ndarray], answered: dict[int, np.ndarray]
) -> None:
    ours, theirs = both
    theirs.get(ours.put(asked))
    received = ours.get(theirs.put(answered))
    assert all(_same(received[key], array) for key, array in answered.items())


@given(ARRAYS.filter(lambda array: array.ndim > 1))
def test_arrays_that_do_not_lie_in_order_arrive_as_they_look(
    both: tuple[TensorMemory, TensorMemory], array: np.ndarray
) -> None:
    ours, theirs = both
    for view in (array.T, array[::-1], array[..., ::2], np.broadcast_to(array, (2, *array.shape))):
        assert _same(theirs.get(ours.put({0: view}))[0], np.array(view))


def test_an_array_in_the_other_byte_order_arrives_with_its_values(both: tuple[TensorMemory, TensorMemory]) -> None:
    ours, theirs = both
    np.testing.assert_array_equal(theirs.get(ours.put({0: np.arange(5, dtype=">i4")}))[0], np.arange(5))


def test_both_ends_map_the_same_memory(both: tuple[TensorMemory, TensorMemory]) -> None:
    ours, theirs = both
    places = ours.put({"x": np.zeros(3)})
    here, there = ours.get(places)["x"], theirs.get(places)["x"]
    there[:] = 7
    assert here.tolist() == [7, 7, 7]


def test_each_array_starts_on_a_cache_line(both: tuple[TensorMemory, TensorMemory]) -> None:
    ours, theirs = both
    places = ours.put({name: np.ones(3, np.int8) for name in "abc"})
    assert [array.ctypes.data % 64 for array in theirs.get(places).values()] == [0, 0, 0]


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 2**20, 2**25])
def test_the_memory_grows_to_what_is_needed_and_both_ends_follow(size: int) -> None:
    ours = TensorMemory()
    theirs = TensorMemory(os.dup(ours.descriptor))
    sent = np.arange(size, dtype=np.uint8)
    assert _same(theirs.get(ours.put({0: np.ones(1)}))[0], np.ones(1))
    assert _same(theirs.get(ours.put({0: sent, 1: sent[:0]}))[0], sent)
    assert os.fstat(ours.descriptor).st_size <= max(4096, size + 4095)
    ours.close()
    theirs.close()


def test_the_same_again_takes_no_more_memory() -> None:
    memory = TensorMemory()
    sizes = set()
    for _ in range(100):
        memory.put({0: np.ones(10_000)})
        sizes.add(os.fstat(memory.descriptor).st_size)
    assert len(sizes) == 1
    memory.close()


def test_views_outlive_growth_and_the_end() -> None:
    memory = TensorMemory()
    view = memory.get(memory.put({0: np.arange(4)}))[0]
    memory.put({0: np.zeros(100_000), 1: np.zeros(1)})
    memory.close()
    assert view.shape == (4,)
    assert not view.any()  # the same memory still, so what came later


def test_it_gives_its_descriptors_back() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(10):
        memory = TensorMemory()
        memory.put({0: np.ones(1)})
        memory.put({0: np.ones(100_000)})
        memory.close()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_place_says_little_however_long_the_text_is(both: tuple[TensorMemory, TensorMemory]) -> None:
    text = np.array(["x" * 10_000_000], np.object_)
    assert len(str(both[0].put({"text": text}))) < 200


def test_too_little_memory_is_an_overload_and_the_memory_stays_usable() -> None:
    code = f"""
import resource, signal
import numpy as np
from turnout_server.core import errors
from turnout_server.devices import tensor_memory

memory = tensor_memory.TensorMemory()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({2**20}, {2**20}))
try:
    memory.put({{0: np.zeros({2**21}, np.uint8)}})
except errors.Overloaded as error:
    print(error)
memory.put({{0: np.ones(10)}})
print("still works")
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert said.splitlines() == [f"not enough memory for {2**21} bytes of tensors: File too large", "still works"]
