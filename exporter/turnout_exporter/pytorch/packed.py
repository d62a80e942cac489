"""Lets the TorchScript exporter take packed sequences of which only the last state is used.

It moves the packing behind the recurrent layer, to the first user of the layer's padded output, and fails if that has no user.
So the output is padded here as well and returned with the others; afterwards the graph loses it again.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence


class WithPackedOutputs(nn.Module):
    """A model that also returns the padded output of every recurrent layer that runs on a packed sequence."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._padded: list[Tensor] = []
        for module in model.modules():
            if isinstance(module, nn.RNNBase):
                module.register_forward_hook(self._keep)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        self._padded.clear()
        outputs: tuple[Tensor, ...] = self.model(*tensors)
        return (*outputs, *self._padded)

    def _keep(self, module: nn.Module, _: Any, answer: Any) -> None:
        if isinstance(answer[0], PackedSequence):
            self._padded.append(pad_packed_sequence(answer[0], batch_first=bool(module.batch_first))[0])
