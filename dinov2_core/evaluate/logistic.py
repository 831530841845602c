"""L2-regularised logistic regression for a whole path of strengths (paper, section 7.2, table 8).

The problem is scikit-learn's: ``C · Σ loss + ½ ‖W‖²``, the intercept free. What makes the path fast: features are
turned into the basis in which their covariance is diagonal, which leaves the penalty as it is. There the curvature is
nearly known beforehand (at most ``XᵀX / 2``: Böhning, Ann. Inst. Stat. Math. 44, 1992), so each variable is scaled by
it. Each strength starts from the solution of the one before. The minimiser is SciPy's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from dinov2_core.errors import UserError
from dinov2_core.evaluate.protocol import NotApplicableError
from dinov2_core.progress import track

PAPER_C = tuple(float(c) for c in np.logspace(-6, 5, 45))
"""The 45 strengths of the public reference."""
_WIDE, _TOP = 1024, 256
"""With more rows and columns than this only the first directions are computed, which takes no cube of either."""
_COARSE = 1e-4
"""From this tolerance on the products are in float32, whose rounding lies far below it."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Solution:
    """``weight [D, K]`` and ``bias [K]`` for features as they were given; ``iterations`` of the minimiser."""

    c: float
    weight: Floats
    bias: Floats
    iterations: int

    def scores(self, features: NDArray[np.float32]) -> Floats:
        """``[N, D] → [N, K]`` logits."""
        return features.astype(np.float64) @ self.weight + self.bias

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.int64]:
        """``[N, D] → [N]`` classes."""
        return self.scores(features).argmax(axis=1)


def path(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    strengths: Sequence[float] = PAPER_C,
    *,
    classes: int | None = None,
    max_iter: int = 1000,
    tol: float = 1e-4,
    label: str = "",
) -> list[Solution]:
    """Solutions in the order of ``strengths``.

    Args:
        features: ``[N, D]``.
        labels: ``[N]`` int64 from 0 for one softmax, or ``[N, K]`` of 1, 0 and -1 (left out) for K sigmoids.
        tol: the largest gradient, in variables of unit curvature, as a share of ``√(C N)``. Below 1e-4 all is float64.

    Raises:
        UserError: features that are not finite, or lengths that differ.
    """
    if len(features) != len(labels):
        raise UserError(f"{len(features)} features and {len(labels)} labels", todo="one label an image")
    if not np.isfinite(features).all():
        raise UserError("features are not finite", todo="look at the weights and the images that gave them")
    wide = min(features.shape) > _WIDE
    dtype = torch.float32 if tol >= _COARSE else torch.float64
    problem = _Problem(
        features.astype(np.float32 if wide and tol >= _COARSE else np.float64),
        labels,
        classes or int(labels.max()) + 1,
        dtype,
    )
    found: dict[float, Solution] = {}
    start = np.zeros((problem.dim + 1, problem.classes))
    ordered = sorted(set(strengths))
    for c in track(ordered, label, len(ordered)) if label else ordered:
        start, iterations = problem.solve(c, start, max_iter, tol)
        weight = problem.weights(start[:-1])
        found[c] = Solution(c, weight, start[-1] - problem.center @ weight, iterations)
    return [found[c] for c in strengths]


def hold_out(labels: NDArray[np.int64], share: float = 0.1, *, seed: int = 0) -> tuple[NDArray[np.int64], ...]:
    """Rows to fit on and rows to choose by, each sorted; a class with one image stays among the former.

    Raises:
        NotApplicableError: nothing is left to choose by.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    held = order[: max(1, round(share * len(labels)))]
    if labels.ndim == 1:
        kept = np.bincount(np.delete(labels, held), minlength=int(labels.max()) + 1)
        held = held[kept[labels[held]] > 0]
        if not len(held):
            # Small sets: the few that were drawn are the only ones of their class, and others may not be.
            held = order[np.bincount(labels)[labels[order]] > 1][:1]
    if not len(held):
        raise NotApplicableError("no image can be held out of train", todo="give a class a second image")
    return np.setdiff1d(np.arange(len(labels)), held), np.sort(held)


class _Problem:
    """The data in the basis of their covariance, ``[N, R]``, and the loss over them."""

    def __init__(self, features: Floats, labels: NDArray[np.int64], classes: int, dtype: torch.dtype) -> None:
        self.center = features.mean(axis=0)
        centred = features - self.center
        self.dim, self.classes, self.count = features.shape[1], classes, len(features)
        self.rest = 0.0
        if min(self.dim, self.count) <= _WIDE:
            centred = centred.astype(np.float64)
            # Fewer rows than columns: the same directions come from the products of rows.
            few = self.count < self.dim
            values, vectors = np.linalg.eigh(centred @ centred.T if few else centred.T @ centred)
            # Directions without variance get no weight under any penalty.
            kept = values > max(values.max(), 1e-300) * 1e-12
            self.curvature, vectors = values[kept], vectors[:, kept]
            self.basis = centred.T @ vectors / np.sqrt(self.curvature) if few else vectors
            x = centred @ self.basis
            self.dim = x.shape[1]
            self.top: Floats | None = None
        else:
            generator = np.random.default_rng(0)
            drawn = centred @ generator.normal(size=(self.dim, _TOP)).astype(np.float32)
            for _ in range(2):
                drawn = centred @ (centred.T @ np.linalg.qr(drawn)[0])
            _, sizes, vectors = np.linalg.svd(np.linalg.qr(drawn)[0].T @ centred, full_matrices=False)
            self.curvature, self.top = sizes.astype(np.float64) ** 2, vectors.T.astype(np.float64)
            self.basis = np.eye(0)
            self.rest = float(max(((centred**2).sum() - self.curvature.sum()) / (self.dim - _TOP), 1e-12))
            x = centred
        self.x = torch.from_numpy(np.ascontiguousarray(x)).to(dtype)
        self.several = labels.ndim == 2
        self.target = torch.from_numpy(labels.astype(np.int64)).to(dtype if self.several else torch.int64)

    def weights(self, w: Floats) -> Floats:
        """``[R, K]`` in the problem's variables → ``[D, K]`` for centred features."""
        return w if self.top is not None else self.basis @ w

    def solve(self, c: float, start: Floats, max_iter: int, tol: float) -> tuple[Floats, int]:
        """The minimiser ``[R + 1, K]`` (the last row is the intercept) from ``start``, and its iterations."""
        bound = 0.25 if self.several else 0.5 * (1 - 1 / max(self.classes, 2))
        own, other = (1 / np.sqrt(v * bound * c + 1) for v in (self.curvature, self.rest))
        free = 1 / np.sqrt(self.count * bound * c)
        shape = start.shape

        def scaled(u: Floats, power: int) -> Floats:
            body, last = u[:-1], u[-1:] * free**power
            if self.top is None:
                return np.concatenate([body * own[:, None] ** power, last])
            rest = other**power
            body = rest * body + self.top @ ((own**power - rest)[:, None] * (self.top.T @ body))
            return np.concatenate([body, last])

        def objective(u: Floats) -> tuple[float, Floats]:
            w = scaled(u.reshape(shape), 1)
            value, gradient = self._loss(w)
            value, gradient = c * value + 0.5 * float((w[:-1] ** 2).sum()), c * gradient
            gradient[:-1] += w[:-1]
            return value, scaled(gradient, 1).ravel()

        # In scaled variables the loss has unit curvature: a gradient of g is a distance g from the minimum.
        limit = tol * float(np.sqrt(c * self.count))
        options = {"maxiter": max_iter, "gtol": limit, "ftol": 1e-10, "maxcor": 20, "maxfun": 2 * max_iter}
        end = minimize(objective, scaled(start, -1).ravel(), jac=True, method="L-BFGS-B", options=options)
        return scaled(end.x.reshape(shape), 1), int(end.nit)

    def _loss(self, w: Floats) -> tuple[float, Floats]:
        weight = torch.from_numpy(w).to(self.x.dtype)
        logits = torch.addmm(weight[-1], self.x, weight[:-1])
        if self.several:
            used = self.target >= 0
            each = torch.where(used, torch.nn.functional.softplus(logits) - self.target * logits, 0.0)
            error = torch.where(used, torch.sigmoid(logits) - self.target, 0.0)
        else:
            log_sum = logits.logsumexp(dim=1)
            each = log_sum - logits.gather(1, self.target[:, None])[:, 0]
            error = (logits - log_sum[:, None]).exp_()
            error.scatter_add_(1, self.target[:, None], torch.full((self.count, 1), -1.0, dtype=error.dtype))
        gradient = torch.cat([self.x.T @ error, error.sum(dim=0, keepdim=True)])
        return float(each.sum(dtype=torch.float64)), gradient.double().numpy()
