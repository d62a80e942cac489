"""Models of transformers as they are by default, which it must have been installed for (`pip install transformers`).

    turnout-export examples/models/hugging_face.py:bert --name hf-bert --repository models
    turnout-export examples/models/hugging_face.py:gpt2 --name hf-gpt2 --repository models

Their configuration says what the inputs are. A folder of `save_pretrained` is exported as it is: `turnout-export FOLDER ...`.
"""

import importlib
from typing import Any

from torch import nn


def bert(**configuration: Any) -> nn.Module:
    """BertForSequenceClassification with random weights; the configuration's arguments are those of BertConfig."""
    transformers = importlib.import_module("transformers")
    model: nn.Module = transformers.BertForSequenceClassification(transformers.BertConfig(**configuration))
    return model


def gpt2(**configuration: Any) -> nn.Module:
    """GPT2LMHeadModel with random weights; the configuration's arguments are those of GPT2Config."""
    transformers = importlib.import_module("transformers")
    model: nn.Module = transformers.GPT2LMHeadModel(transformers.GPT2Config(**configuration))
    return model
