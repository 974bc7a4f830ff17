"""Trains the small vision transformer that the tests and `scripts/digits.py` use.

    pip install "systolith[training]"
    python scripts/train_digits.py tests/data

The data are scikit-learn's digits, 1,797 images of 8 by 8 pixels (E. Alpaydin, C. Kaynak: Optical
Recognition of Handwritten Digits, UCI Machine Learning Repository, CC BY 4.0), which its package
holds. Two thirds are for training, the others for the test; seeds are fixed. Writes
`digits_vit.onnx` and `digits.npz`: images and labels of the test, and images of the training part
to calibrate on.
"""

import argparse
from pathlib import Path

import jax  # pyright: ignore[reportMissingImports]
import jax.numpy as jnp  # pyright: ignore[reportMissingImports]
import numpy as np
import onnx
from sklearn.datasets import load_digits  # pyright: ignore[reportMissingImports]

from digits import SHAPE, WHITE
from systolith_sim.vision_models import make_vit, vit_weights

TEST = 600
CALIBRATION = 256
EPOCHS = 300
NOISE = 0.04
AVERAGED = 0.998
"""Share of the past in the average of weights that is kept."""
BATCH = 57
RATE, DECAY, SMOOTHING = 2e-3, 0.05, 0.1
SPLIT_SEED = 0

Weights = dict[str, jax.Array]


def forward(weights: Weights, images: jax.Array) -> jax.Array:
    """The model's logits, `[images, classes]`, of images `[images, 8, 8]` from 0 to 1."""
    count, (high, wide) = len(images), SHAPE.patch
    rows = images.reshape(count, 8 // high, high, 8 // wide, wide).transpose(0, 1, 3, 2, 4)
    kernel = weights["projection.weight"].reshape(SHAPE.hidden, -1)
    x = rows.reshape(count, -1, high * wide) @ kernel.T + weights["projection.bias"]
    token = jnp.broadcast_to(weights["token.0"], (count, 1, SHAPE.hidden))
    x = jnp.concatenate([token, x], 1) + weights["positions"]

    def linear(name: str, y: jax.Array) -> jax.Array:
        return y @ weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def norm(name: str, y: jax.Array) -> jax.Array:
        centred = y - y.mean(-1, keepdims=True)
        deviation = jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return centred / deviation * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    for index in range(SHAPE.layers):
        name = f"encoder.layer.{index}"
        y = norm(f"{name}.before", x)
        q, k, v = (
            linear(f"{name}.attention.{part}", y).reshape(count, SHAPE.length, SHAPE.heads, -1)
            for part in ("query", "key", "value")
        )
        scores = jnp.einsum("nqhc,nkhc->nhqk", q, k) * (SHAPE.hidden / SHAPE.heads) ** -0.5
        context = jnp.einsum("nhqk,nkhc->nqhc", jax.nn.softmax(scores), v)
        x = x + linear(f"{name}.attention.output", context.reshape(x.shape))
        y = linear(f"{name}.intermediate", norm(f"{name}.after", x))
        x = x + linear(f"{name}.output", jax.nn.gelu(y, approximate=False))
    first = norm("layernorm", x)[:, 0]
    return first @ weights["classifier.weight"].T + weights["classifier.bias"]


def loss(weights: Weights, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross entropy, labels smoothed."""
    logs = jax.nn.log_softmax(forward(weights, images))
    target = jax.nn.one_hot(labels, SHAPE.classes) * (1 - SMOOTHING) + SMOOTHING / SHAPE.classes
    return -(logs * target).sum(-1).mean()


@jax.jit
def step(
    weights: Weights,
    moments: tuple[Weights, Weights],
    number: jax.Array,
    rate: jax.Array,
    images: jax.Array,
    labels: jax.Array,
) -> tuple[Weights, tuple[Weights, Weights]]:
    """One step of Adam with decay of the matrices."""
    slope = jax.grad(loss)(weights, images, labels)
    first = {name: 0.9 * moments[0][name] + 0.1 * slope[name] for name in weights}
    second = {name: 0.98 * moments[1][name] + 0.02 * slope[name] ** 2 for name in weights}
    moved = {}
    for name, value in weights.items():
        mean, square = first[name] / (1 - 0.9**number), second[name] / (1 - 0.98**number)
        decay = DECAY * value if value.ndim > 1 else 0.0
        moved[name] = value - rate * (mean / (jnp.sqrt(square) + 1e-8) + decay)
    return moved, (first, second)


@jax.jit
def averaged(average: Weights, weights: Weights) -> Weights:
    """A moving average of weights, less at the mercy of the last batches."""
    return {
        name: AVERAGED * value + (1 - AVERAGED) * weights[name] for name, value in average.items()
    }


def shifted(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Images, each moved by up to a pixel, with noise."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    moved = [
        image[top : top + 8, left : left + 8]
        for image, (top, left) in zip(padded, random.integers(0, 3, (len(images), 2)), strict=True)
    ]
    return np.clip(np.stack(moved) + random.normal(0, NOISE, images.shape), 0, 1)


def train(images: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Train from random weights; return the trained ones."""
    random = np.random.default_rng(seed)
    weights: Weights = {
        # Small matrices, plain norms: the writer's own weights have wide channels on purpose.
        name: jnp.asarray(
            np.ones_like(value)
            if value.ndim == 1 and name.endswith("weight")
            else np.zeros_like(value)
            if value.ndim == 1
            else random.normal(0, 0.05 if value.ndim < 4 else 0.3, value.shape)
        )
        for name, value in vit_weights(SHAPE).items()
    }
    zeros = {name: jnp.zeros_like(value) for name, value in weights.items()}
    moments, number = (zeros, zeros), 0
    batches, average = len(images) // BATCH, weights
    for epoch in range(EPOCHS):
        order = random.permutation(len(images))
        for part in np.array_split(order, batches):
            number += 1
            share = number / (EPOCHS * batches)
            rate = RATE * min(1.0, number / 200) * 0.5 * (1 + np.cos(np.pi * share))
            weights, moments = step(
                weights,
                moments,
                jnp.float32(number),
                jnp.float32(rate),
                jnp.asarray(shifted(images[part], random), jnp.float32),
                jnp.asarray(labels[part]),
            )
            average = averaged(average, weights)
        if (epoch + 1) % 50 == 0:
            print(f"epoch {epoch + 1}: loss {float(loss(average, images, labels)):.4f}")
    return {name: np.asarray(value, np.float32) for name, value in average.items()}


def main() -> None:
    """Train, and write the model and its data."""
    parser = argparse.ArgumentParser(description="Train the small vision transformer.")
    parser.add_argument("folder", type=Path, help="where to write to")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default 0)")
    options = parser.parse_args()
    folder = options.folder
    digits = load_digits()
    order = np.random.default_rng(SPLIT_SEED).permutation(len(digits.target))
    pixels, labels = digits.images[order].astype(np.uint8), digits.target[order].astype(np.uint8)
    learned = slice(TEST, None)
    weights = train(pixels[learned] / WHITE, labels[learned], options.seed)
    right = np.argmax(forward(weights, pixels[:TEST] / WHITE), 1) == labels[:TEST]
    print(f"test accuracy {100 * right.mean():.2f} %")
    onnx.save(make_vit(SHAPE, weights), folder / "digits_vit.onnx")
    np.savez_compressed(
        folder / "digits.npz",
        images=pixels[:TEST],
        labels=labels[:TEST],
        calibration=pixels[learned][:CALIBRATION],
    )


if __name__ == "__main__":
    main()
