"""Two small classifiers of handwritten digits: a CNN and an LSTM, trained offline in seconds.

The data is scikit-learn's `load_digits`, which its wheel contains: 1 797 grey images of 8x8 pixels. Train one, save its weights
and publish it:

    python examples/digits.py cnn digits-cnn.safetensors
    turnout-export examples/digits.py:cnn --weights digits-cnn.safetensors --name digits-cnn --repository models \
        --input 'image=float32[batch,1,8,8]@0:1'
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

EPOCHS = {"cnn": 20, "lstm": 40}
HELD_OUT_SHARE = 0.25
ROWS_PER_STEP = 64


class Cnn(nn.Module):
    """image (batch, 1, 8, 8) float32 in 0..1 -> logits (batch, 10) float32."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 2 * 2, 10))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"logits": self.classifier(self.features(image))}


class Lstm(nn.Module):
    """rows (batch, 8, 8) float32 in 0..1, an image read from top to bottom -> logits (batch, 10) float32."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 64, batch_first=True, bidirectional=True)
        self.classifier = nn.Sequential(nn.Dropout(0.3), nn.Linear(2 * 64, 10))

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        states, _ = self.lstm(rows)  # (batch, 8, 128)
        return {"logits": self.classifier(states.amax(dim=1))}


def cnn() -> nn.Module:
    """The convolutional classifier, untrained; its input is `image=float32[batch,1,8,8]@0:1`."""
    return Cnn()


def lstm() -> nn.Module:
    """The recurrent classifier, untrained; its input is `rows=float32[batch,8,8]@0:1`."""
    return Lstm()


FACTORIES: dict[str, Callable[[], nn.Module]] = {"cnn": cnn, "lstm": lstm}
INPUT_SHAPES = {"cnn": (1, 8, 8), "lstm": (8, 8)}  # of one row


@dataclass(frozen=True)
class Split:
    """Images (n, 8, 8) float32 in 0..1 and their digits (n,) int64, for training and held out for evaluation."""

    train_images: Tensor
    train_digits: Tensor
    held_out_images: Tensor
    held_out_digits: Tensor


def split() -> Split:
    """The same split every time, stratified by digit."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 (exporting a model needs no scikit-learn)
    from sklearn.model_selection import train_test_split  # noqa: PLC0415

    digits = load_digits()
    train_images, held_out_images, train_digits, held_out_digits = (
        torch.from_numpy(part)
        for part in train_test_split(
            digits.images.astype("float32") / 16,
            digits.target.astype("int64"),
            test_size=HELD_OUT_SHARE,
            stratify=digits.target,
            random_state=0,
        )
    )
    return Split(train_images, train_digits, held_out_images, held_out_digits)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limits torch to one thread: on busy cores, two threads took ten times as long for models as small as these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Trained:
    """A model in evaluation mode and the share of held-out images that it names correctly."""

    model: nn.Module
    accuracy: float


def train(kind: str, *, seed: int = 0, progress: Callable[[int, int], None] = lambda done, total: None) -> Trained:
    """Train a `cnn` or an `lstm`; the same seed gives the same weights on the same machine.

    Args:
        kind: `cnn` or `lstm`.
        seed: of the weights, the order of the images and their random shifts.
        progress: called after each epoch with the number of epochs done and their total.
    """
    data, epochs = split(), EPOCHS[kind]
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FACTORIES[kind]()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
        steps_per_epoch = -(-len(data.train_images) // ROWS_PER_STEP)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-2, epochs * steps_per_epoch)
        for epoch in range(1, epochs + 1):
            _train_epoch(model, kind, data, optimizer, schedule)
            progress(epoch, epochs)
    return Trained(model.eval(), accuracy(model, kind, data))


def _train_epoch(
    model: nn.Module,
    kind: str,
    data: Split,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    model.train()
    order = torch.randperm(len(data.train_images))
    for start in range(0, len(order), ROWS_PER_STEP):
        rows = order[start : start + ROWS_PER_STEP]
        images = _shifted(data.train_images[rows]).reshape(-1, *INPUT_SHAPES[kind])
        loss = functional.cross_entropy(model(images)["logits"], data.train_digits[rows], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()


def _shifted(images: Tensor) -> Tensor:
    """The images (n, 8, 8), all shifted by the same random offset of up to one pixel each way and padded with black."""
    down, right = torch.randint(0, 3, (2,)).tolist()
    return functional.pad(images, (1, 1, 1, 1))[:, down : down + 8, right : right + 8]


def accuracy(model: nn.Module, kind: str, data: Split) -> float:
    """The share of held-out images that the model names correctly."""
    model.eval()
    with torch.inference_mode():
        logits = model(data.held_out_images.reshape(-1, *INPUT_SHAPES[kind]))["logits"]
    return float((logits.argmax(dim=1) == data.held_out_digits).float().mean())


def training_images(sizes: dict[str, int], seed: int) -> dict[str, NDArray[np.float32]]:
    """A batch of training images for the CNN: what `--samples` takes to calibrate int8."""
    images = split().train_images.numpy()
    chosen = np.random.default_rng(seed).choice(len(images), sizes["batch"])
    return {"image": images[chosen].reshape(-1, *INPUT_SHAPES["cnn"])}


def held_out_accuracy(predict: Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]]) -> dict[str, float]:
    """The share of held-out images that an exported CNN names correctly: what `--metric` takes."""
    data = split()
    logits = predict({"image": data.held_out_images.numpy().reshape(-1, *INPUT_SHAPES["cnn"])})["logits"]
    return {"accuracy": float((logits.argmax(axis=1) == data.held_out_digits.numpy()).mean())}


def main() -> None:
    """Train one model and write its weights."""
    parser = argparse.ArgumentParser(description="Train a digits classifier and keep its weights.")
    parser.add_argument("kind", choices=sorted(FACTORIES))
    parser.add_argument("weights", help="the .safetensors file to write")
    arguments = parser.parse_args()
    trained = train(arguments.kind, progress=lambda done, total: print(f"\repoch {done}/{total}", end="", flush=True))
    save_file(trained.model.state_dict(), arguments.weights)
    print(f"\nheld-out accuracy {trained.accuracy:.4f}; wrote {arguments.weights}")


if __name__ == "__main__":
    main()
