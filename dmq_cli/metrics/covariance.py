"""Check that stored numbers can be the mean and the covariance of features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmq_cli.errors import EvaluationError
from dmq_cli.metrics.references.reference import Statistics

LARGEST = 8192
"""More features than any extractor gives; the eigenvalues of larger matrices would take too long."""

_REAL = "fiu"
_SYMMETRIC = 1e-5  # of the largest entry
_NEGATIVE = 1e-6  # of the largest eigenvalue


def check_statistics_shapes(mu: tuple[int, ...], sigma: tuple[int, ...], file: Path, name: str) -> None:
    """Raise EvaluationError unless the shapes are (D,) and (D, D), with a possible number of features D."""
    if len(mu) != 1 or sigma != mu * 2 or not 1 <= mu[0] <= LARGEST:
        raise EvaluationError(
            f"The reference {name} in {file} should have a mean (D,) and a covariance (D, D) of at most {LARGEST:,} features, but "
            f"has {mu} and {sigma}; give the file as it was published."
        )


def checked_statistics(mu: NDArray[Any], sigma: NDArray[Any], file: Path, name: str) -> Statistics:
    """Check a mean (D,) and a covariance (D, D), and return them as float64. name: of the reference in `file`, for errors.

    Raises EvaluationError for other shapes, NaN, and a matrix that is not a covariance.
    """
    check_statistics_shapes(mu.shape, sigma.shape, file, name)
    if not {mu.dtype.kind, sigma.dtype.kind} <= set(_REAL):
        raise EvaluationError(
            f"The reference {name} in {file} should have a mean and a covariance of real numbers, but has {mu.dtype} and "
            f"{sigma.dtype}; give the file as it was published."
        )
    mean, covariance = (np.asarray(part, dtype=np.float64) for part in (mu, sigma))
    if not (np.isfinite(covariance).all() and np.isfinite(mean).all()):
        raise EvaluationError(
            f"The reference {name} in {file} should have a mean and a covariance of finite numbers, but has NaN or infinity; give"
            " the file as it was published."
        )
    if not _is_covariance(covariance):
        raise EvaluationError(
            f"The reference {name} in {file} should have a covariance, but that is not symmetric or has negative eigenvalues; "
            "give the file as it was published."
        )
    return Statistics(mean, covariance)


def _is_covariance(matrix: NDArray[np.float64]) -> bool:
    """Whether a matrix (D, D) is symmetric and has no eigenvalue below zero, except for the rounding of float32."""
    scale = float(np.abs(matrix).max(initial=0.0))
    if np.abs(matrix - matrix.T).max(initial=0.0) > _SYMMETRIC * scale:
        return False
    try:  # much faster than eigenvalues; no entry of the diagonal is above the largest of them
        np.linalg.cholesky(matrix + _NEGATIVE * max(matrix.diagonal().max(initial=0.0), 0.0) * np.eye(len(matrix)))
        return True
    except np.linalg.LinAlgError:
        values = np.linalg.eigvalsh(matrix)
        return bool(values[0] >= -_NEGATIVE * values[-1])
