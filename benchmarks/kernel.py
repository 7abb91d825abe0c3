"""What the exact kernel costs, beside neural-tangents, training and its own lower bound.

Run:    python -m benchmarks.kernel [--case resnet20 resnet50] [--data data] [--out FILE.json]
Time:   about ten minutes on two cores; resnet20_protocol another fifteen.
Expect: "ours" no slower than the faster of neural-tangents' two; the solver below a tenth
        of the kernel; peak memory below the budget.

With ``--data`` weights and pictures are real (a folder with ``weights/`` and ``datasets/``),
without it random: seconds do not depend on their values, the deviation of predicted times
does.

All times of a case come from one process and are taken in turns, the least of the repeats
counts, compilation apart (first call less a later one). Memory is measured in a process of
its own for each implementation: the highest resident size during a second call above the one
before it. neural-tangents' vector products differentiate each pair of samples by itself:
they are run on few pictures and scaled by n^2.
"""

import argparse
import ctypes
import dataclasses
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ttp_jax import losses, models, study
from ttp_jax.chunks import map_samples
from ttp_jax.dynamics import path as solved
from ttp_jax.dynamics.simulate import simulate
from ttp_jax.kernel import empirical_ntk, estimate
from ttp_jax.kernel.choice import Kernel
from ttp_jax.optimizers import SGD
from ttp_jax.thresholds import time_to_threshold
from ttp_jax.trust import largest_curvature
from ttp_jax.types import Curve, Task

CASES = {
    "resnet20": ("resnet20", None, (32, 32, 3), 10, 10),
    "resnet20_protocol": ("resnet20", None, (32, 32, 3), 5, 150),
    "resnet50": ("resnet50", "stage3", (8, 8, 1024), 5, 10),
}
"""Network, last frozen stage, what the rest takes, outputs, pictures of each."""
TITLES = {
    "resnet20": "CIFAR ResNet-20 at 32 px",
    "resnet20_protocol": "CIFAR ResNet-20 at 32 px, as many pictures as in the paper's tasks",
    "resnet50": "ResNet-50, last stage and head, on cached 8x8x1024 features",
}
WEIGHTS = {
    "resnet20": "resnet20_cifar10.npz",
    "resnet50": "resnet50_keras_imagenet_f16.npz",
}
IMPLEMENTATIONS = ("ttp", "nt_jacobian_contraction", "nt_vector_products")
SKETCHES = {
    "kronecker, 1024": Kernel("kronecker", dimension=1024),
    "coordinates, 1024": Kernel("coordinates", dimension=1024),
    "count_sketch, 1024": Kernel("count_sketch", dimension=1024),
    "tensor_sketch, 1024": Kernel("tensor_sketch", dimension=1024),
    "tensor_sketch, 2048": Kernel("tensor_sketch", dimension=2048),
}
SEEDS = 3
EPSILONS = (0.4, 0.2, 0.1)
PREDICTED_STEPS = 4000
STABILITY = 0.002
"""Learning rate over the largest that is stable: the times then lie at hundreds of steps, of
which one is no deviation worth the name."""
NAMES = ("ours", "JACOBIAN_CONTRACTION", "NTK_VECTOR_PRODUCTS")
BATCH = 32
EPOCHS = 30


def task_of(case: str, per_class: int, data: Path | None) -> Task:
    """Real weights and pictures of sign language, or random ones."""
    name, freeze, size, c, _ = CASES[case]
    if data is not None:
        config = study.Config(
            model=name,
            weights=str(data / "weights" / WEIGHTS[name]),
            data=f"npz:{data / 'datasets' / 'signdigits10_100.npz'}",
            image_size=128 if freeze else 32,
            classes=c,
            per_class=per_class,
            freeze_until=freeze or "none",
            batch_size=None,
        )
        return study.build(config).task
    network = models.load(name, weights="random").with_head(c, seed=0)
    split = network.split(freeze)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((c * per_class, *size)).astype(np.float32)
    return Task(
        split.apply_fn,
        jax.tree.map(jnp.asarray, split.params),
        # What comes out of a stage is not negative.
        np.maximum(x, 0) if freeze else x,
        np.repeat(np.arange(c), per_class),
    )


def epoch_of(task: Task, n: int) -> Callable[[], Any]:
    """One epoch of SGD with momentum, batch by batch."""
    optimizer = optax.sgd(1e-3, momentum=0.9)
    targets = jnp.asarray(task.targets, jnp.float32)
    x = jnp.asarray(task.x)

    @jax.jit
    def step(params, state, x, y):
        def loss(params):
            return losses.mean(task.loss, task.apply_fn(params, x), y)

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    # A ragged last batch would be compiled apart: its pictures are scaled in afterwards.
    size = min(BATCH, n)
    starts = range(0, n - size + 1, size)

    def epoch():
        params, state = task.params, optimizer.init(task.params)
        for s in starts:
            params, state = step(params, state, x[s : s + size], targets[s : s + size])
        return params

    epoch.scale = n / (len(starts) * size)  # type: ignore[attr-defined]
    return epoch


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def measure(task: Task, n_products: int, repeats: int, budget: int | None) -> dict:
    """All times of a case."""
    n, c = task.n, task.c
    few = dataclasses.replace(
        task, x=task.x[:n_products], y=np.asarray(task.y)[:n_products]
    )
    theta = np.zeros(0)

    def kernel(implementation: str, task: Task = task) -> np.ndarray:
        return empirical_ntk(
            task.apply_fn,
            task.params,
            task.x,
            implementation=implementation,  # type: ignore[arg-type]
            memory_budget_bytes=budget,
        )

    forward = jax.jit(task.apply_fn)
    x = jnp.asarray(task.x)
    epoch = epoch_of(task, n)
    steps = EPOCHS * (n // min(BATCH, n))
    f0 = map_samples(lambda part: forward(task.params, part), task.x).astype(np.float64)
    curvature = 1.0  # until the kernel is there

    def solve(steps: int):
        sgd = SGD(1.0, momentum=0.9, batch_size=min(BATCH, n))
        rate = STABILITY * sgd.stability_limit() / curvature
        return simulate(
            theta,
            f0,
            task.targets,
            dataclasses.replace(sgd, learning_rate=rate),
            loss=task.loss,
            steps=steps,
        )

    def sketch(kernel: Kernel) -> np.ndarray:
        return kernel.compute(
            task.apply_fn, task.params, task.x, memory_budget_bytes=budget
        )

    runs = {
        "forward": lambda: [forward(task.params, x[s : s + 25]) for s in range(0, n, 25)],
        "epoch": epoch,
        "ours": lambda: kernel("ttp"),
        "JACOBIAN_CONTRACTION": lambda: kernel("nt_jacobian_contraction"),
        "NTK_VECTOR_PRODUCTS": lambda: kernel("nt_vector_products", few),
        **{name: lambda of=kernel: sketch(of) for name, kernel in SKETCHES.items()},
        "solver": lambda: solve(steps),
    }
    first, least = {}, {}
    for name, run in runs.items():
        first[name] = seconds(run)
        if name == "ours":
            theta = kernel("ttp")
            curvature = largest_curvature(theta, f0, task.targets, loss=task.loss)
    for _ in range(repeats):
        for name, run in runs.items():
            if name == "NTK_VECTOR_PRODUCTS" and name in least:
                continue
            least[name] = min(least.get(name, np.inf), seconds(run))
    exact = predicted_times(solve(PREDICTED_STEPS))
    deviations = {}
    for name, described in SKETCHES.items():
        of_seeds = []
        for seed in range(SEEDS):
            theta = sketch(dataclasses.replace(described, seed=seed))
            found = predicted_times(solve(PREDICTED_STEPS))
            of_seeds.append(max(abs(t / e - 1) for t, e in zip(found, exact, strict=True)))
        deviations[name] = {"median": np.median(of_seeds), "worst": max(of_seeds)}
    compiled = {name: max(first[name] - least[name], 0.0) for name in runs}
    least["epoch"] *= epoch.scale  # type: ignore[attr-defined]
    least["NTK_VECTOR_PRODUCTS"] *= (n / n_products) ** 2
    bound = (1 + 2 * c) * least["forward"]
    cost = estimate(task.apply_fn, task.params, task.x, memory_budget_bytes=budget)
    return {
        "n": n,
        "c": c,
        "p": sum(v.size for v in jax.tree.leaves(task.params)),
        "vector_products_n": n_products,
        "seconds": least,
        "compile_s": compiled,
        "estimated_s": cost.seconds,
        "bound_s": bound,
        "ours_over_bound": least["ours"] / bound,
        "ours_over_faster_neural_tangents": least["ours"]
        / min(least["JACOBIAN_CONTRACTION"], least["NTK_VECTOR_PRODUCTS"]),
        "ours_over_epoch": least["ours"] / least["epoch"],
        "solver_over_ours": least["solver"] / least["ours"],
        "predicted_steps": exact,
        "deviations": deviations,
    }


def predicted_times(path: solved.Path) -> list[float]:
    """Steps to some shares of the initial loss within the end; infinite where never."""
    curve = Curve(path.steps, path.loss, path.accuracy, 1.0 * path.steps)
    found = (time_to_threshold(curve, e, "within_of_final").steps for e in EPSILONS)
    return [np.inf if steps is None else max(steps, 1) for steps in found]


def peak(chosen: argparse.Namespace, case: str, implementation: str) -> dict:
    """Peak memory of one kernel, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.kernel", "--peak-of", implementation]
    command += ["--case", case]
    for option in ("per_class", "data", "budget"):
        value = getattr(chosen, option)
        command += [f"--{option.replace('_', '-')}", str(value)] if value else []
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def print_peak(task: Task, implementation: str, budget: int | None) -> None:
    """What the process of :func:`peak` does."""
    cost = estimate(task.apply_fn, task.params, task.x, memory_budget_bytes=budget)

    def run() -> None:
        empirical_ntk(
            task.apply_fn,
            task.params,
            task.x,
            implementation=implementation,  # type: ignore[arg-type]
            memory_budget_bytes=budget,
        )

    run()
    # What the allocator keeps of the first call would hide the second one's share.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory_bytes("VmRSS")
    run()
    # Not getrusage: its maximum starts at that of the process which started this one.
    used = _memory_bytes("VmHWM") - before
    print(json.dumps({"peak_bytes": used, "budget_bytes": cost.budget_bytes}))


def _memory_bytes(name: str) -> int:
    """``VmRSS``, resident now, or ``VmHWM``, at most so far, as Linux counts them."""
    found = re.search(name + r":\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def report(result: dict) -> None:
    n, c, s = result["n"], result["c"], result["seconds"]
    print(f"\n{TITLES[result['case']]}: n={n}, c={c}, p={result['p']:,}")
    print(
        f"{'':24}{'seconds':>10}{'compile':>10}{'of bound':>10}{'epochs':>9}{'peak MB':>10}"
    )
    for name in (*NAMES, *SKETCHES):
        memory = result["memory"].get(name)
        print(
            f"{name:24}{s[name]:10.2f}{result['compile_s'][name]:10.2f}"
            f"{s[name] / result['bound_s']:10.2f}{s[name] / s['epoch']:9.1f}"
            + (f"{memory['peak_bytes'] / 1e6:10.0f}" if memory else f"{'':>10}")
        )
    print(
        f"{'one training epoch':24}{s['epoch']:10.2f}{result['compile_s']['epoch']:10.2f}\n"
        f"{'one forward pass':24}{s['forward']:10.2f}\n"
        f"{'bound, (1+2c) forward':24}{result['bound_s']:10.2f}\n"
        f"{f'solver, {EPOCHS} epochs':24}{s['solver']:10.2f}"
        f"{result['compile_s']['solver']:10.2f}"
        f"   = {result['solver_over_ours']:.3f} of ours\n"
        f"ours / faster of neural-tangents' two: "
        f"{result['ours_over_faster_neural_tangents']:.2f};  estimated before the start: "
        f"{result['estimated_s']:.1f} s"
    )
    print(
        f"time to {', '.join(f'{e:.0%}' for e in EPSILONS)} by the exact kernel: "
        f"{', '.join(f'{steps:.0f}' for steps in result['predicted_steps'])} steps"
    )
    for sketch, off in result["deviations"].items():
        cheaper = min(s[name] for name in NAMES[1:]) / s[sketch]
        print(
            f"{sketch}: {cheaper:.1f} times cheaper than the faster of neural-tangents' two, "
            f"predicted times at most {off['median']:.1%} off (median of {SEEDS} seeds; "
            f"worst {off['worst']:.1%})"
        )
    print(
        f"NTK_VECTOR_PRODUCTS measured on {result['vector_products_n']} pictures, "
        f"scaled by n^2"
    )
    for name, memory in result["memory"].items():
        print(
            f"memory of {name}: peak {memory['peak_bytes'] / 1e6:.0f} MB with compiled "
            f"programs, budget {memory['budget_bytes'] / 1e6:.0f} MB"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--case", nargs="+", choices=CASES, default=["resnet20", "resnet50"]
    )
    parser.add_argument("--data", type=Path, help="folder of real weights and pictures")
    parser.add_argument("--per-class", type=int, help="pictures, by default the case's")
    parser.add_argument("--products-n", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--budget", type=int, help="bytes; by default half of what is free")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--peak-of", choices=IMPLEMENTATIONS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    results = []
    for case in chosen.case:
        task = task_of(case, chosen.per_class or CASES[case][-1], chosen.data)
        if chosen.peak_of:
            print_peak(task, chosen.peak_of, chosen.budget)
            return
        result = measure(task, chosen.products_n, chosen.repeats, chosen.budget)
        result["case"] = case
        measured = () if chosen.no_memory else zip(NAMES[:2], IMPLEMENTATIONS, strict=False)
        result["memory"] = {
            name: peak(chosen, case, implementation) for name, implementation in measured
        }
        report(result)
        results.append(result)
    if chosen.out:
        about = {
            "jax": jax.__version__,
            "device": str(jax.devices()[0]),
            "machine": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
        }
        chosen.out.write_text(json.dumps({"about": about, "cases": results}, indent=1))


if __name__ == "__main__":
    main()
