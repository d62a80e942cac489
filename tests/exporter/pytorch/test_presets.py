"""Presets of inputs, on models that only have a signature and a configuration."""

from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor, nn
from turnout_exporter.errors import SourceError
from turnout_exporter.pytorch.presets import caps_of, inputs_of, labels_of, preprocessing_of


class Text(nn.Module):
    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.config = SimpleNamespace(vocab_size=500, max_position_embeddings=128, **config)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None, labels: Any = None
    ) -> Tensor:
        return input_ids


class Pair(nn.Module):
    config = SimpleNamespace(vocab_size=500, is_encoder_decoder=True)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, decoder_input_ids: Any = None) -> Tensor:
        return input_ids


class Image(nn.Module):
    config = SimpleNamespace(num_channels=1, image_size=(32, 64))

    def forward(self, pixel_values: Tensor, bool_masked_pos: Any = None) -> Tensor:
        return pixel_values


class Sound(nn.Module):
    config = SimpleNamespace()

    def forward(self, input_values: Tensor) -> Tensor:
        return input_values


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(70, 4)

    def forward(self, tokens: Tensor, pad_mask: Tensor, mask: Tensor, lengths: Tensor, scale: float = 1.0) -> Tensor:
        return tokens


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(
    ("model", "task", "inputs"),
    [
        (Text(), "", ["input_ids=int64[batch,seq]@0:500", "attention_mask=mask[batch,seq]"]),
        (Text(type_vocab_size=1), "", ["input_ids=int64[batch,seq]@0:500", "attention_mask=mask[batch,seq]"]),
        (
            Text(type_vocab_size=2),
            "text-classification",
            ["input_ids=int64[batch,seq]@0:500", "attention_mask=mask[batch,seq]", "token_type_ids=int64[batch,seq]@0:2"],
        ),
        (
            Pair(),
            "",
            [
                "input_ids=int64[batch,seq]@0:500",
                "attention_mask=mask[batch,seq]",
                "decoder_input_ids=int64[batch,target]@0:500",
            ],
        ),
        (Image(), "", ["pixel_values=float32[batch,1,32,64]"]),
        (Sound(), "", ["input_values=float32[batch,samples]"]),
        (
            Tagger(),
            "token-classification",
            [
                "tokens=int64[batch,seq]@0:70",
                "pad_mask=padding[batch,seq]",
                "mask=mask[batch,seq]",
                "lengths=lengths[batch]<=seq",
            ],
        ),
        (Convolution(), "image-classification", ["x=float32[batch,4,224,224]"]),
    ],
)
def test_inputs_follow_from_the_signature_the_configuration_and_the_task(
    model: nn.Module, task: str, inputs: list[str]
) -> None:
    assert inputs_of(model, task) == inputs


def test_timm_says_the_size_of_an_image_and_how_it_is_made() -> None:
    model = Convolution()
    model.default_cfg = {"input_size": (3, 288, 288), "mean": (0.5,), "url": "x"}  # type: ignore[assignment]
    assert inputs_of(model, "image-classification") == ["x=float32[batch,3,288,288]"]
    assert preprocessing_of(model) == {"mean": (0.5,)}


@pytest.mark.parametrize(
    ("model", "task", "complaint"),
    [
        (Convolution(), "", "forward takes x, and nothing says what they are: give --input for each, or --task"),
        (Convolution(), "text-classification", "no embedding that would say how many tokens there are"),
        (Tagger(), "image-classification", "the task 'image-classification' doesn't say what they are"),
        (Convolution(), "ctc", "the task 'ctc' doesn't say"),
    ],
)
def test_what_nothing_says_is_asked_for(model: nn.Module, task: str, complaint: str) -> None:
    with pytest.raises(SourceError, match=complaint):
        inputs_of(model, task)


def test_the_positions_of_a_configuration_limit_the_search() -> None:
    assert caps_of(Text()) == {"seq": 128, "target": 128}
    assert caps_of(Image()) == {}


def test_labels_that_transformers_makes_up_are_none() -> None:
    assert labels_of(Text(id2label={0: "LABEL_0", 1: "LABEL_1"})) == []
    assert labels_of(Text(id2label={1: "dog", 0: "cat"})) == ["cat", "dog"]
    assert labels_of(Convolution()) == []
