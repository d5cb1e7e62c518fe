"""Linear regression of images on attributes."""

from torch import Tensor, linalg


def regression(y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares of x (N, D) on y (N, A), x = M y + m: M (D, A), the smallest M if there are many, and m (D,)."""
    centred, mean = y - y.mean(0), x.mean(0)
    M = (linalg.pinv(centred.T @ centred, hermitian=True) @ (centred.T @ (x - mean))).T
    return M, mean - M @ y.mean(0)
