import shlex
from itertools import pairwise

from turnout_loadtests.sending.load import OFFLINE, OPEN, SERVER, SINGLE_STREAM, locust_command, locustfile

from tests.loadtests.made import load


def test_loads_have_the_names_of_mlperf() -> None:
    assert load().scenario == SINGLE_STREAM
    assert load(in_flight=8).scenario == OFFLINE
    assert load(arrival=OPEN, rate_per_s=10.0).scenario == SERVER
    assert load(in_flight=1, fills=True).scenario == OFFLINE


def test_an_open_load_has_few_and_busy_users_whose_rates_add_up() -> None:
    given = load(arrival=OPEN, rate_per_s=120.0)
    assert given.user_count == 3
    assert given.user_count / given.mean_gap_s == 120.0
    assert load(in_flight=8).mean_gap_s == 0.0


def test_the_command_for_locust_alone_has_the_whole_load() -> None:
    words = shlex.split(locust_command(load(arrival=OPEN, rate_per_s=120.0, in_flight=64, shape="a:1 b:2", target_ms=50.0), 2))
    options = dict(pairwise(words))
    assert options["--device"] == "cpu"
    assert options["--shape"] == "a:1 b:2"
    assert float(options["--rate-per-user"]) * int(options["--users"]) == 120.0
    assert (options["--max-in-flight"], options["--slo-p99-ms"], options["--processes"]) == ("64", "50", "2")
    assert locustfile().exists()
