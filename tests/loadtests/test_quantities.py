from collections.abc import Callable
from typing import Any

import pytest
from turnout_loadtests.errors import LoadTestError
from turnout_loadtests.quantities import PowerModel, duration_ms, power_model, price, rate_per_s


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (duration_ms, "50ms", 50.0),
        (duration_ms, "0.5 s", 500.0),
        (duration_ms, "800us", 0.8),
        (rate_per_s, "100/s", 100.0),
        (rate_per_s, "0.5 / s", 0.5),
        (price, "cpu=0.34/h", ("cpu", 0.34)),
        (price, "cuda:0=1.2/h", ("cuda:0", 1.2)),
        (power_model, "20,95", PowerModel(20.0, 95.0)),
    ],
)
def test_a_quantity_is_read(read: Callable[[str], Any], text: str, value: object) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (duration_ms, "50"),
        (duration_ms, "0ms"),
        (duration_ms, "-5ms"),
        (rate_per_s, "100"),
        (rate_per_s, "0/s"),
        (price, "cpu=0.34"),
        (price, "0.34/h"),
        (price, "cpu=cheap/h"),
        (power_model, "20"),
        (power_model, "95,20"),
    ],
)
def test_another_text_is_refused_with_an_example(read: Callable[[str], Any], text: str) -> None:
    with pytest.raises(LoadTestError, match="write"):
        read(text)
