import pytest
from turnout_server.core.suggestions import did_you_mean, nearest


@pytest.mark.parametrize(
    ("name", "meant"),
    [("digit", "digits"), ("digitss", "digits"), ("Digits", "digits"), ("digist", "digits"), ("resnet-50", "resnet_50")],
)
def test_a_name_that_is_nearly_known_means_the_known_one(name: str, meant: str) -> None:
    assert nearest(name, ["digits", "resnet_50", "add_sub"]) == meant
    assert did_you_mean(name, ["digits", "resnet_50", "add_sub"]) == f"; did you mean '{meant}'?"


@pytest.mark.parametrize("name", ["nowhere", "", "digits", "digits" * 100])
def test_a_name_like_no_other_means_nothing(name: str) -> None:
    assert did_you_mean(name, ["digits", "add_sub"]) == ""


def test_only_some_of_many_names_are_looked_at() -> None:
    names = (f"model-{number}" for number in range(1_000_000))
    assert nearest("model-9x", names) == "model-9"
    assert next(names) == "model-256"
