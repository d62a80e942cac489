"""A run on each core: found out by the server itself, and used while several requests are there."""

import json
import os
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import models
from tests.integration.test_scheduling import metric
from tests.servers import RunningServer, running
from tests.wire import arrays, parameters, request

#: Iterations of a loop that one thread runs, for about ten milliseconds; so a second core would have nothing to do.
ITERATIONS = 10_000

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is only one core")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("cores")
    models.save(root, "lazy", models.lazy(ITERATIONS), configuration="max_batch_size: 1")
    return root


@pytest.fixture(scope="module")
def serve(repository: Path) -> Callable[..., Any]:
    """Starts a server with further flags, as a context manager."""
    return lambda *flags: running(repository, "--profile-budget-s=20", *flags)


def found_to_take(cache: Path, share: float) -> None:
    """Has the profiles that a server has kept say that a run on one core takes this share of one on all of them."""
    kept = {path: json.loads(path.read_text()) for path in cache.glob("*.json")}
    ((path, alone),) = ((path, entry) for path, entry in kept.items() if "a run on each of" in entry["key"]["options"])
    (shared,) = (entry for entry in kept.values() if "runs on all of" in entry["key"]["options"])
    shared_us = shared["service_us"]["1"]["service_us"]
    alone["service_us"]["1"] |= {"service_us": share * shared_us, "fastest_us": share * shared_us}
    path.write_text(json.dumps(alone))


def facts(server: RunningServer) -> dict[str, Any]:
    with urllib.request.urlopen(f"{server.monitoring}/explain?model=lazy", timeout=10) as response:
        found: dict[str, Any] = json.load(response)["devices"][0]
    return found


def ask(server: RunningServer, value: float) -> tuple[float, int]:
    """The answer, and the microseconds that its run took."""
    answer = server.stub.ModelInfer(request("lazy", {"x": np.full((1, 2), value, np.float32)}), timeout=30)
    return float(arrays(answer)["y"][0, 1]), int(parameters(answer)["compute_us"])


@pytest.mark.parametrize(("share", "per_core"), [(1.0, True), (1.99, False)])
def test_what_was_found_decides_whether_clients_have_a_core_each(
    serve: Callable[..., Any], tmp_path: Path, share: float, per_core: bool
) -> None:
    flags = ["--device=cpu={threads = 2}", f"--cache-dir={tmp_path}"]
    with serve(*flags) as server:
        assert facts(server)["per_core_per_s"] > 0  # it was tried, with whatever result on a machine that does other things
    found_to_take(tmp_path, share)
    with serve(*flags) as server:
        found = facts(server)
        assert found["per_core"] is per_core
        assert found["per_core_per_s"] == pytest.approx(2 / share * found["together_per_s"], rel=1e-3)

        def client(number: int) -> list[tuple[float, int]]:
            return [ask(server, number * 100 + turn) for turn in range(20)]

        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(client, range(4)))
        assert [[value for value, _ in own] for own in answers] == [[n * 100 + t for t in range(20)] for n in range(4)]
        ran_s = sum(run_us for own in answers for _, run_us in own) * 1e-6
        busy_s = metric(server, "turnout_busy_seconds_total", model="lazy")
        assert (busy_s < 0.8 * ran_s) is per_core  # a run on one of two cores keeps half of the device busy


def test_with_instances_that_were_declared_there_is_one_run_at_a_time(serve: Callable[..., Any]) -> None:
    with serve("--device=cpu={threads = 2, instances = 1}") as server:
        found = facts(server)
        assert (found["cores"], found["per_core"], found["per_core_per_s"]) == (0, False, None)
        assert ask(server, 7)[0] == 7


def test_where_the_memory_for_models_is_limited_none_is_loaded_twice(serve: Callable[..., Any]) -> None:
    with serve("--device=cpu={threads = 2}", "--max-loaded-mb=100") as server:
        found = facts(server)
        assert (found["per_core"], found["per_core_per_s"]) == (False, None)
