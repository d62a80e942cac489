from turnout_loadtests.cells import Load
from turnout_loadtests.compare import Comparison, in_turn

PLAN = Comparison(["a", "b"], ["cpu", "cuda"], [1, 8], Load(host="127.0.0.1:1", model="", device="", users=3))


def test_devices_alternate_within_a_model_and_batch() -> None:
    order = [(load.model, load.batch, load.device) for load in in_turn(PLAN, {"a": ["cpu", "cuda"], "b": ["cpu"]})]
    assert order == [
        ("a", 1, "cpu"), ("a", 1, "cuda"), ("a", 8, "cpu"), ("a", 8, "cuda"), ("b", 1, "cpu"), ("b", 8, "cpu"),
    ]  # fmt: skip


def test_every_cell_keeps_the_plans_load() -> None:
    assert {load.users for load in in_turn(PLAN, {"a": ["cpu"], "b": []})} == {3}
