"""Made-up images that calibrate int8 where no real ones are at hand: smooth shapes with some noise, seeded.

Calibrate a trained model with images of its task instead: pass a function of your own to `--samples`.
"""

import numpy as np


def normalised(sizes: dict[str, int], seed: int, pixels: int = 224) -> dict[str, np.ndarray]:
    """`image` (batch, 3, pixels, pixels) float32 with mean 0 and deviation 1 over the batch."""
    images = _smooth(sizes["batch"], pixels, seed)
    return {"image": ((images - images.mean()) / images.std()).astype(np.float32)}


def for_inception(sizes: dict[str, int], seed: int) -> dict[str, np.ndarray]:
    """`normalised` at Inception's 299 pixels."""
    return normalised(sizes, seed, pixels=299)


def for_yolo(sizes: dict[str, int], seed: int) -> dict[str, np.ndarray]:
    """`image` (batch, 3, 416, 416) float32 from 0 to 1."""
    images = _smooth(sizes["batch"], 416, seed)
    return {"image": ((images - images.min()) / np.ptp(images)).astype(np.float32)}


def _smooth(batch: int, pixels: int, seed: int) -> np.ndarray:
    """Random sums of waves, (batch, 3, pixels, pixels)."""
    random = np.random.default_rng(seed)
    place = np.linspace(0, 1, pixels)
    images = np.zeros((batch, 3, pixels, pixels))
    for _ in range(6):
        across, down, phase = random.uniform(0, 12, (3, batch, 3, 1, 1))
        waves = np.sin(across * place[None, :] + down * place[:, None] + phase)
        images += random.standard_normal((batch, 3, 1, 1)) * waves
    return images + 0.2 * random.standard_normal(images.shape)
