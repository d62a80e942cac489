from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export
from turnout_exporter.errors import SourceError, SpecError
from turnout_exporter.pytorch.program import UNBOUNDED, check_flat, ranges_within, size_limits
from turnout_exporter.spec.inputspec import parse_inputs
from turnout_exporter.spec.points import Limits, batch_limits


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Nested(nn.Module):
    def forward(self, x: Tensor, *, more: Any) -> Tensor:
        answer: Tensor = x * more["scale"] if isinstance(more, dict) else x * more
        return answer


def doubled(*axes: object) -> ExportedProgram:
    return export(Doubled(), (torch.zeros(5, 6),), dynamic_shapes=(dict(enumerate(axes)),))


@pytest.mark.parametrize(
    ("axes", "limits"),
    [
        ([Dim("b", min=2, max=16)], {"batch": Limits(1, 16)}),
        ([Dim("b", min=4, max=16)], {"batch": Limits(4, 16)}),
        ([Dim("b", min=3)], {"batch": Limits(3, UNBOUNDED)}),
        ([Dim("b"), Dim("w", max=64)], {"w": Limits(1, 64)}),
        ([Dim.AUTO], {}),
    ],
)
def test_the_sizes_that_a_program_takes_are_read_from_it(axes: list[object], limits: dict[str, Limits]) -> None:
    dims = "batch,w" if len(axes) > 1 else "batch,6"
    assert size_limits(doubled(*axes), parse_inputs([f"x=float32[{dims}]"])) == limits


def test_a_size_that_a_program_fixes_has_no_limits() -> None:
    assert size_limits(doubled(Dim("b", max=9)), parse_inputs(["x=float32[n,w]"])) == {"n": Limits(1, 9)}


@pytest.mark.parametrize(
    ("own", "ranges", "rows", "expected"),
    [
        (Limits(1, 16), {}, None, ({"batch": Limits(1, 16)}, 16)),
        (Limits(1, 500), {}, None, ({"batch": Limits(1, 32)}, 32)),
        (Limits(1, 16), {}, 8, ({"batch": Limits(1, 8)}, 8)),
        (Limits(1, 16), {}, 0, ({}, 0)),
        (Limits(4, 16), {}, None, ({"batch": Limits(4, 16)}, 0)),
        (Limits(40, UNBOUNDED), {}, None, ({"batch": Limits(40, 80)}, 0)),
        (Limits(1, 16), {"batch": Limits(1, 4)}, None, ({"batch": Limits(1, 4)}, 4)),
    ],
)
def test_batches_are_as_large_as_the_program_takes(
    own: Limits, ranges: dict[str, Limits], rows: int | None, expected: Any
) -> None:
    assert batch_limits(["batch"], *ranges_within({"batch": own}, ranges, rows)) == expected


@pytest.mark.parametrize(("own", "rows"), [(Limits(1, 16), 32), (Limits(4, 16), 8)])
def test_a_batch_size_that_the_program_does_not_take_is_refused(own: Limits, rows: int) -> None:
    with pytest.raises(SpecError, match=f"a batch of 1 to {rows} rows isn't within"):
        batch_limits(["batch"], *ranges_within({"batch": own}, {}, rows))


def test_narrow_ranges_are_taken_as_they_are_and_wide_ones_are_searched() -> None:
    own = {"a": Limits(3, 5), "b": Limits(10, 30), "c": Limits(1, 4096)}
    assert ranges_within(own, {}, None)[0] == {"a": Limits(3, 5), "b": Limits(10, 30)}
    assert ranges_within(own, {"a": Limits(4, 4)}, None)[0]["a"] == Limits(4, 4)


@pytest.mark.parametrize(
    ("more", "complaint"),
    [({"scale": torch.ones(6)}, "argument 'more' is a dict"), (2.0, "argument 'more' is a float")],
)
def test_an_argument_that_is_no_tensor_is_refused_by_its_name(more: object, complaint: str) -> None:
    with pytest.raises(SourceError, match=complaint):
        check_flat(export(Nested(), (torch.zeros(5, 6),), {"more": more}))


def test_tensors_by_position_and_by_name_are_taken() -> None:
    check_flat(export(Nested(), (torch.zeros(5, 6),), {"more": torch.ones(6)}))
