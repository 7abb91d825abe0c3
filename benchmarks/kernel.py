"""What the exact kernel costs, beside neural-tangents, training and its own lower bound.

Run:    python -m benchmarks.kernel [--case resnet20 resnet50] [--n 100] [--out FILE.json]
Time:   about six minutes on two cores.
Expect: "ours" no slower than the faster of neural-tangents' two; the solver below a tenth
        of the kernel; peak memory below the budget.

All times of a case come from one process and are taken in turns, the least of the repeats
counts, compilation apart (first call less a later one). Memory is measured in a process of
its own for each implementation: the highest resident size during a second call above the one
before it. neural-tangents' vector products differentiate each pair of samples by itself:
they are run on few pictures and scaled by n^2.
"""

import argparse
import ctypes
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

from ttp_jax import losses, models
from ttp_jax.dynamics.simulate import simulate
from ttp_jax.kernel import empirical_ntk, estimate
from ttp_jax.kernel.choice import Kernel
from ttp_jax.optimizers import SGD
from ttp_jax.types import Task

CASES = {
    "resnet20": {"name": "resnet20", "freeze": None, "x": (32, 32, 3), "c": 10, "n": 100},
    "resnet50": {
        "name": "resnet50",
        "freeze": "stage3",
        "x": (8, 8, 1024),
        "c": 5,
        "n": 50,
    },
}
TITLES = {
    "resnet20": "CIFAR ResNet-20 at 32 px",
    "resnet50": "ResNet-50, last stage and head, on cached 8x8x1024 features",
}
IMPLEMENTATIONS = ("ttp", "nt_jacobian_contraction", "nt_vector_products")
SKETCHES = {
    "kronecker sketch, 256": Kernel("kronecker", dimension=256),
    "kronecker sketch, 1024": Kernel("kronecker", dimension=1024),
}
NAMES = ("ours", "JACOBIAN_CONTRACTION", "NTK_VECTOR_PRODUCTS")
BATCH = 32
EPOCHS = 30


def task_of(case: str, n: int) -> Task:
    """Random weights and pictures: times do not depend on their values."""
    this = CASES[case]
    network = models.load(case, weights="random").with_head(this["c"], seed=0)
    split = network.split(this["freeze"])
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, *this["x"])).astype(np.float32)
    return Task(
        split.apply_fn,
        jax.tree.map(jnp.asarray, split.params),
        # What comes out of a stage is not negative.
        np.maximum(x, 0) if this["freeze"] else x,
        rng.integers(0, this["c"], n),
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


def measure(case: str, n: int, n_products: int, repeats: int, budget: int | None) -> dict:
    """All times of a case."""
    task, few = task_of(case, n), task_of(case, n_products)
    few = Task(task.apply_fn, task.params, task.x[:n_products], task.y[:n_products])
    c = task.c
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
    sgd = SGD(learning_rate=1e-6, momentum=0.9, batch_size=min(BATCH, n))
    steps = EPOCHS * (n // min(BATCH, n))
    f0 = np.asarray(forward(task.params, x), np.float64)
    runs = {
        "forward": lambda: [forward(task.params, x[s : s + 25]) for s in range(0, n, 25)],
        "epoch": epoch,
        "ours": lambda: kernel("ttp"),
        "JACOBIAN_CONTRACTION": lambda: kernel("nt_jacobian_contraction"),
        "NTK_VECTOR_PRODUCTS": lambda: kernel("nt_vector_products", few),
        **{
            name: lambda kernel=kernel: kernel.compute(
                task.apply_fn, task.params, task.x, memory_budget_bytes=budget
            )
            for name, kernel in SKETCHES.items()
        },
        "solver": lambda: simulate(
            theta, f0, task.targets, sgd, loss=task.loss, steps=steps, every=steps // EPOCHS
        ),
    }
    first, least = {}, {}
    for name, run in runs.items():
        first[name] = seconds(run)
        if name == "ours":
            theta = kernel("ttp")
    for _ in range(repeats):
        for name, run in runs.items():
            if name == "NTK_VECTOR_PRODUCTS" and name in least:
                continue
            least[name] = min(least.get(name, np.inf), seconds(run))
    compiled = {name: max(first[name] - least[name], 0.0) for name in runs}
    least["epoch"] *= epoch.scale  # type: ignore[attr-defined]
    least["NTK_VECTOR_PRODUCTS"] *= (n / n_products) ** 2
    bound = (1 + 2 * c) * least["forward"]
    cost = estimate(task.apply_fn, task.params, task.x, memory_budget_bytes=budget)
    return {
        "case": case,
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
    }


def peak(case: str, n: int, implementation: str, budget: int | None) -> dict:
    """Peak memory of one kernel, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.kernel", "--peak-of", implementation]
    command += ["--case", case, "--n", str(n)]
    command += ["--budget", str(budget)] if budget else []
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def print_peak(case: str, n: int, implementation: str, budget: int | None) -> None:
    """What the process of :func:`peak` does."""
    task = task_of(case, n)
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
        "faster of neural-tangents' two / sketch: "
        + ", ".join(
            f"{min(s[name] for name in NAMES[1:]) / s[sketch]:.1f} ({sketch})"
            for sketch in SKETCHES
        )
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
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--n", type=int, help="pictures; by default 100 and 50")
    parser.add_argument("--products-n", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--budget", type=int, help="bytes; by default half of what is free")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--peak-of", choices=IMPLEMENTATIONS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    if chosen.peak_of:
        (case,) = chosen.case
        print_peak(case, chosen.n, chosen.peak_of, chosen.budget)
        return
    results = []
    for case in chosen.case:
        n = chosen.n or CASES[case]["n"]
        result = measure(case, n, chosen.products_n, chosen.repeats, chosen.budget)
        measured = () if chosen.no_memory else zip(NAMES[:2], IMPLEMENTATIONS, strict=False)
        result["memory"] = {
            name: peak(case, n, implementation, chosen.budget)
            for name, implementation in measured
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
