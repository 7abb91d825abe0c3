"""What a kernel says of a task before anything is solved: do its directions know the labels?

All functions take a kernel over samples. From the kernel ``[nc, nc]`` of all outputs that is
``K = (1/c) sum_a Theta_aa``, what :func:`ttp_jax.kernel.classes.over_samples`
gives; the kernel of features is ``Phi Phi^T``.
"""

import numpy as np
from jaxtyping import Float, Int

from ttp_jax.spectrum import Spectrum
from ttp_jax.types import InputError


def residual_in_modes(
    spectrum: Spectrum,
    f0: Float[np.ndarray, "n c"],
    targets: Float[np.ndarray, "n c"],
) -> Float[np.ndarray, " r"]:
    """Share of the first residual in each mode, ``(v_k . (y - f_0))^2 / |y - f_0|^2``.

    Under MSE mode ``k`` decays as ``(1 - eta lam_k/n)^t`` (Zancato et al., arXiv 2008.12478):
    training is fast where the shares lie in the first modes. They sum to one where the modes
    span everything.
    """
    residual = (np.asarray(targets) - np.asarray(f0)).reshape(-1)
    return spectrum.energies(residual) / (residual @ residual)


def label_correlation(
    kernel: Float[np.ndarray, "n n"], labels: Int[np.ndarray, " n"]
) -> float:
    """Correlation of a kernel with the labels' own, both centred, in ``[-1, 1]``.

    ``<HKH, HYH>/(|HKH| |HYH|)`` with ``Y_ij = 1`` where two labels are the same and
    ``H = I - 1 1^T/n`` (centred alignment: Cortes et al., JMLR 2012). Of the kernel of
    gradients: label-gradient correlation; of features: label-feature correlation (the
    quantities of Deshpande et al., arXiv 2102.00084, whose normalisation may differ).

    Raises:
        InputError: Fewer than two classes, or a kernel that is the same everywhere.
    """
    labels = np.asarray(labels)
    if len(np.unique(labels)) < 2:
        raise InputError(
            f"label correlation needs at least 2 classes, got {len(np.unique(labels))}"
        )

    def centred(matrix: np.ndarray) -> np.ndarray:
        rows = matrix - matrix.mean(axis=0, keepdims=True)
        return rows - rows.mean(axis=1, keepdims=True)

    k = centred(np.asarray(kernel, np.float64))
    same = centred((labels[:, None] == labels[None, :]).astype(float))
    size = np.linalg.norm(k)
    if not size > 1e-12 * np.linalg.norm(kernel):
        raise InputError("label correlation needs a kernel that tells samples apart")
    return float(np.sum(k * same) / (size * np.linalg.norm(same)))


def class_separation(
    kernel: Float[np.ndarray, "n n"],
    labels: Int[np.ndarray, " n"],
    *,
    normalized: bool = True,
) -> float:
    """Mean silhouette of the classes in the kernel's own distance, in ``[-1, 1]``.

    ``d_ij^2 = K_ii + K_jj - 2 K_ij`` (Rousseeuw, 1987, as scikit-learn computes it): whether
    gradients cluster by class, and features as well.

    Args:
        kernel: Over samples.
        labels: Of the samples.
        normalized: Compare directions, ``K_ij/sqrt(K_ii K_jj)``: how long a gradient is says
            how wrong its sample is.

    Raises:
        InputError: A single class, or every sample a class of its own.
    """
    from sklearn.metrics import silhouette_score

    labels = np.asarray(labels)
    if not 2 <= len(np.unique(labels)) < len(labels):
        raise InputError(
            f"class separation needs 2 to {len(labels) - 1} classes of {len(labels)} samples, "
            f"got {len(np.unique(labels))}"
        )
    k = np.asarray(kernel, np.float64)
    if normalized:
        length = np.sqrt(np.maximum(np.diag(k), np.finfo(float).tiny))
        k = k / np.outer(length, length)
    own = np.diag(k)
    distance = np.sqrt(np.maximum(own[:, None] + own[None, :] - 2 * k, 0.0))
    np.fill_diagonal(distance, 0.0)
    return float(silhouette_score(distance, labels, metric="precomputed"))
