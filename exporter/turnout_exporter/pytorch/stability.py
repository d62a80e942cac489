"""Whether a model answers the same when it is asked the same again; one that doesn't can't be verified, nor published.

Asked before the export, because there the difference would look like an error of the exporter.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from turnout_exporter.errors import ConversionError
from turnout_exporter.examination import differing
from turnout_exporter.pytorch.first_values import FirstValues
from turnout_exporter.spec.reference import Arrays

_SHOWN = 3


class _RandomOperators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes each operator that draws random numbers, with the module that calls it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: dict[str, None] = {}
        self._names = {module: name or type(module).__name__ for name, module in model.named_modules()}
        self._stack: list[nn.Module] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            where = next((self._names[module] for module in reversed(self._stack) if module in self._names), "forward")
            self.found[f"{func.overloadpacket._qualified_op_name.replace('::', '.')} in {where}"] = None
        return func(*args, **(kwargs or {}))

    def entered(self, module: nn.Module, _: Any) -> None:
        self._stack.append(module)

    def left(self, *_: Any) -> None:
        self._stack.pop()


def check(first_values: FirstValues, run: Callable[[], Arrays]) -> list[str]:
    """Runs a model twice on the same inputs; returns what the user should know.

    Args:
        first_values: those of the model, which it has again afterwards.
        run: runs the model on some inputs, the same ones each time.

    Raises:
        ConversionError: the outputs differ; the text names the random operators, the buffers or the state that may be why.
    """
    with first_values.restored():
        unstable, operators, changes = _differences(first_values, run)
    if unstable:
        raise ConversionError(_complaint(unstable, operators, changes))
    return [f"forward changes {change}: the published model always has its first value" for change in changes[:_SHOWN]]


def _differences(first_values: FirstValues, run: Callable[[], Arrays]) -> tuple[list[str], list[str], list[str]]:
    """The outputs in which two runs differ; the random operators, and the weights and buffers that the first one changed."""
    operators = _RandomOperators(first_values.model)
    hooks = [
        nn.modules.module.register_module_forward_pre_hook(operators.entered),
        nn.modules.module.register_module_forward_hook(operators.left, always_call=True),
    ]
    try:
        torch.manual_seed(1)
        with operators:
            first = run()
    finally:
        for hook in hooks:
            hook.remove()
    changes = first_values.changes()
    torch.manual_seed(2)
    return differing(first, run()), list(operators.found), changes


def _complaint(unstable: list[str], operators: list[str], changes: list[str]) -> str:
    what = f"the model answers differently each time on the same inputs (output {unstable[0]!r}), so it can't be verified: "
    if changes:
        return f"{what}forward changes {', '.join(changes[:_SHOWN])}; let it change none in evaluation mode"
    if operators:
        return (
            f"{what}it draws random numbers ({', '.join(operators[:_SHOWN])}). Dropout must be off in evaluation mode, "
            f"F.dropout(x, training=self.training), and noise must be an input"
        )
    return f"{what}forward keeps something from one call to the next; make that an input and an output"
