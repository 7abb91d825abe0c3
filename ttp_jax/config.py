"""What a run is asked for: the options that the command line and the library share.

One flat list, so that a record of a run is one as well. Which options belong to a method alone
is said where the method is (:mod:`ttp_jax.methods`).
"""

from dataclasses import dataclass
from typing import Literal

from ttp_jax.accelerators.sparsity import Spread
from ttp_jax.dynamics.noise import Noise
from ttp_jax.early_curves.elasticity import Quantity
from ttp_jax.kernel.choice import KernelName
from ttp_jax.kernel.classes import Outputs
from ttp_jax.linearisation.augmented_prediction import VIEWS
from ttp_jax.linearisation.mending import CLOCK, MENDS, Clock
from ttp_jax.models import HeadInit
from ttp_jax.optimizers import DecayToward
from ttp_jax.prediction import Solver
from ttp_jax.sampling import Sampling
from ttp_jax.types import LossName, ThresholdRule


@dataclass(frozen=True)
class Config:
    """What is fine-tuned, how, and what is asked of the curve."""

    model: str = "embedded"
    """Network: embedded, resnet20|32|44|56, resnet18|34|50|101, mlp."""
    weights: str | None = None
    """File of pre-trained weights (.safetensors, .pth, .npz), or the word random."""
    data: str = "digits"
    """Pictures: digits, dir:FOLDER, npz:FILE or tfds:NAME."""
    data_dir: str | None = None
    """Folder of prepared data sets, for tfds:NAME."""
    classes: int = 5
    """Classes drawn for the task."""
    per_class: int = 30
    """Pictures drawn of each class."""
    held_out: int = 0
    """Further pictures of each class that are not trained on, and that the curves are read on
    too; 0 for none."""
    image_size: int | None = None
    """Side in pixels; by default what the network was made for."""
    freeze_until: str = "auto"
    """Last stage that is not trained; everything after it is, with the new head. none
    trains all; auto is none, for the embedded network stage2."""
    head_init: HeadInit = "lecun_normal"
    """The new head: N(0, 1/fan_in) or zeros."""
    head_scale: float | None = None
    """Multiplies the new head; by default 3, for ImageNet networks 1 (larger features)."""
    head_hidden: int | None = None
    """Units of a hidden layer in the new head, which then is an MLP on the features; none by
    default."""
    flip: bool = False
    """Train on pictures that are mirrored left to right at random, anew in every epoch."""
    shift: int = 0
    """Move them at random by up to so many pixels, what comes in being mirrored at the edge."""
    pixel_noise: float = 0.0
    """Add noise of this standard deviation to every byte of them."""
    views: int = VIEWS
    """Views of each picture that a prediction of such training is made from; its kernel costs
    (views + 1)^2 times as much."""
    batch_norm: Literal["inference", "train"] = "inference"
    """BatchNorm of the trained stages by the statistics of the weights' own training, or by
    those of each mini-batch (train)."""
    loss: LossName = "cross_entropy"
    """cross_entropy or mse (0.5 |f - y|^2 on one-hot targets)."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """sgd, or adam (adamw with weight decay)."""
    lr: float = 1.5e-4
    """Learning rate, of the mean loss of a batch."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate over the run."""
    momentum: float = 0.9
    """Momentum, of sgd."""
    nesterov: bool = False
    """Nesterov's form of momentum."""
    beta1: float = 0.9
    """Decay of adam's average gradient."""
    beta2: float = 0.999
    """Decay of adam's average square."""
    adam_eps: float = 1e-8
    """Added to the root of adam's average square."""
    weight_decay: float = 0.0
    """Weight decay, on every trained weight; of adam the decoupled one."""
    decay_toward: DecayToward = "zero"
    """What weight decay pulls the weights to: zero, or initial, where they started."""
    batch_size: int | None = 25
    """Batch size; None for the full batch."""
    sampling: Sampling = "shuffle"
    """How batches are drawn."""
    epochs: int | float = 60
    """Length of the run in passes over the pictures."""
    epsilon: tuple[float, ...] = (0.4, 0.1, 0.01)
    """Thresholds, as a loss or as a fraction of the initial loss."""
    rules: tuple[ThresholdRule, ...] = ("within_of_final", "fraction_of_initial", "loss")
    """How thresholds are read off a curve."""
    smoothing: int = 1
    """Average the curve over so many readings before thresholds are read."""
    every: int | None = None
    """Read the curve every so many steps; by default so that reading costs less than a fifth
    of training."""
    stop_elasticity: float | None = None
    """End the real run once one per cent more steps takes less than so many per cent off the
    loss; a prediction says where that will be. To its end by default."""
    stop_quantity: Quantity = "loss"
    """What stop-elasticity watches: the loss, or the error (1 - accuracy)."""
    stop_window: int = 5
    """Readings that stop-elasticity takes the slope over."""
    stop_patience: int = 1
    """Readings in a row that must be below stop-elasticity."""
    stop_after_steps: int | None = None
    """From this step on the run may end though it never fell faster; by default only after it
    once has."""
    solver: Solver = "simulate"
    """What solves the linearised dynamics."""
    paths: int = 0
    """Random paths that bands around the prediction are read from; 0 for no bands."""
    heads: int = 0
    """Other random heads, each with a stream of its own, that bands are read from; each
    costs a prediction of its own. 0 for none."""
    noise: Noise = "exact"
    """Noise of the batches in the solvers moments, moments_sde and sde."""
    effective_rate: bool = False
    """Treat momentum as the learning rate lr/(1 - momentum)."""
    calibrate_steps: int = 0
    """Take so many real steps first, and predict the rest from there."""
    relinearize: float | None = None
    """Linearise again wherever the model has left its linearisation by so much, such as 0.5;
    once, at the start, by default."""
    mend: int = MENDS
    """Mend the prediction at most so many times: where the predicted loss has halved, ask the
    true model and go on from there. 0 for the paper's one linearisation, which paths,
    kernel-samples, methods and solvers other than simulate always use."""
    mend_clock: Clock = CLOCK
    """Between two mends learning goes as fast as the kernel at the first says (start), or from
    that to what the second finds (both)."""
    kernel: KernelName = "exact"
    """What computes the kernel: exactly, by neural-tangents, or by a random projection."""
    kernel_outputs: Outputs = "full"
    """What the kernel keeps between outputs."""
    sketch_dimension: int = 256
    """Numbers that a random projection leaves of every tensor."""
    kernel_samples: int | None = None
    """Pictures that the kernel is computed for, the curve being extrapolated to all; all by
    default."""
    coarse: float | None = None
    """Predict by real gradients of so many passes over the pictures, such as 4, each a step as
    much longer than one of the run, in the place of a kernel; and by as many again, to see
    what that changes. Without training by default."""
    check: float | None = None
    """Lay a coarse run of so many passes, such as 5, beside the prediction, for a better trust.
    By default nothing is trained."""
    method: str = "plain"
    """plain, or beside a plain run: snapshot, cosine cycles whose ends are averaged; freezeout,
    layers that stop learning one after the other; agent, sparse training (density) and
    corrected gradients. Several at once are joined by +: freezeout+snapshot, and both with
    agent's masks that stay."""
    cycles: int | None = None
    """Cycles of snapshot, of equal length; 4 by default."""
    alpha0: float | None = None
    """Learning rate at the start of each cycle of snapshot; by default lr, the plain run's."""
    last: int | None = None
    """How many of the last snapshots are averaged; all by default."""
    t0: float | Literal["best"] | None = None
    """Share of the run after which the first group of freezeout freezes, before the power of
    how; or best, the cheapest to the smallest epsilon as predicted. 0.8 by default."""
    how: Literal["linear", "squared", "cubic"] | None = None
    """Power of the times at which groups freeze; cubic by default."""
    scaled: bool = True
    """Whether a group of freezeout that has less time has higher rates."""
    groups: tuple[str, ...] | None = None
    """What freezeout freezes together: stages (by default), layer, tensor, or patterns of
    paths of weights such as stage3/block0/*, the first to freeze first."""
    density: float | None = None
    """Of agent: share of the weights of all masked tensors that is there; dense by default."""
    sparsity: Literal["static", "magnitude", "set", "rigl"] | None = None
    """Of agent: random masks that stay (the default), the largest weights, SET or RigL."""
    spread: Spread | None = None
    """Of agent: how the density is shared out over tensors: erk (the default) or uniform."""
    mask_every: int | None = None
    """Of agent: steps between mask updates of set and rigl; 100 by default."""
    mask_until: float | None = None
    """Of agent: share of the run after which masks stay; 0.75 by default."""
    drop: float | None = None
    """Of agent: share of the weights that the first mask update moves; 0.3 by default."""
    correction: Literal["none", "agent", "alpha_svrg", "svrg"] | None = None
    """Of agent: how mini-batch gradients are corrected; by agent's own rule by default, not at
    all together with other methods."""
    gamma: float | None = None
    """Of agent: its coefficient over the agreement of losses it follows; 0.1 by default."""
    coefficient: float | None = None
    """Of agent: where alpha_svrg starts (0.5 by default), or svrg's (1 by default)."""
    attack: float | None = None
    """Of agent: train on adversarial pictures, each input changed by at most so much; trained
    for real alone (ttp finetune)."""
    attack_steps: int | None = None
    """Of agent: ascents of the attack, each of 2.5 times its radius over their number; 10 by
    default."""
    memory_gb: float | None = None
    """Memory for the kernel; a share of what is free by default."""
    seed: int = 0
    """Of the pictures, the head and the mini-batches."""
