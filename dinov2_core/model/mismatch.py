"""Strict loading: tensors and module agree in every name and shape, or one line says where they do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from dinov2_core.errors import UserError


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor], *, where: str, assign: bool = False) -> None:
    """Load all of ``tensors`` into all of ``module``, or raise with every difference.

    ``assign`` lets the module take the tensors themselves instead of their values: it may then be on the meta device,
    and the tensors must be nobody else's.

    Raises:
        UserError: names are missing or unexpected, or shapes differ; all are listed, long lists shortened.
    """
    own = module.state_dict()
    shapes = [
        f"{k} is {tuple(tensors[k].shape)}, not {tuple(own[k].shape)}"
        for k in own
        if k in tensors and own[k].shape != tensors[k].shape
    ]
    problems = [
        *listed("missing", [k for k in own if k not in tensors]),
        *listed("unexpected", sorted(tensors.keys() - own.keys())),
        *listed("other shape", shapes),
    ]
    if problems:
        raise UserError("; ".join(problems), where=where, todo="give a checkpoint of the same architecture")
    module.load_state_dict(dict(tensors), strict=True, assign=assign)


def listed(what: str, names: Sequence[str], most: int = 12) -> list[str]:
    """``["N WHAT: a, b, …"]``, shortened after ``most`` names; empty where there are none."""
    if not names:
        return []
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return [f"{len(names)} {what}: {', '.join(names[:most])}{rest}"]
