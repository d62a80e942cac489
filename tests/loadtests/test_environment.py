import pytest
from turnout_loadtests.environment import describe, parse_cpu_limit


@pytest.mark.parametrize(("text", "cores"), [("max 100000\n", None), ("150000 100000\n", 1.5), ("", None)])
def test_a_cgroup_quota_is_read_as_a_number_of_cores(text: str, cores: float | None) -> None:
    assert parse_cpu_limit(text) == cores


def test_this_machine_can_be_described() -> None:
    found = describe()
    assert found.cores >= 1
    assert found.cpu
    assert found.versions["grpcio"]


def test_only_the_packages_asked_for_and_installed_have_a_version() -> None:
    assert describe(["numpy", "no-such-package"]).versions.keys() == {"numpy"}
