"""Which protocols there are, by name; a protocol's module is loaded when it is asked for.

A protocol is registered by one line here: its name and ``module:ATTRIBUTE`` inside this package.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from dinov2_core.errors import UserError, nearest
from dinov2_core.evaluate.protocol import Protocol

PROTOCOLS: Mapping[str, str] = {
    "knn": "knn_protocol:KNN",
    "knn-few-shot": "knn_protocol:FEW_SHOT",
    "linear": "linear_protocol:LINEAR",
    "logistic": "logistic_protocol:LOGISTIC",
    "finetune": "finetune_protocol:FINETUNE",
    "robustness": "robustness:ROBUSTNESS",
    "corruptions": "corruption_protocol:CORRUPTIONS",
    "revisited": "retrieval_protocol:REVISITED",
    "instances": "retrieval_protocol:INSTANCES",
    "segmentation": "dense_protocol:SEGMENTATION",
    "segmentation-ms": "dense_protocol:MULTI_SCALE",
    "depth": "dense_protocol:DEPTH",
    "video": "video_protocol:VIDEO",
    "tracking": "video_protocol:TRACKING",
    "ood": "beyond_protocol:OOD",
    "fairness": "beyond_protocol:FAIRNESS",
}


def get(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        UserError: there is none.
    """
    if name not in PROTOCOLS:
        raise UserError(
            f"no protocol '{name}'{nearest(name, PROTOCOLS)}", todo=f"name one of {', '.join(PROTOCOLS)}, or all"
        )
    module, _, attribute = PROTOCOLS[name].partition(":")
    found = getattr(importlib.import_module(f"dinov2_core.evaluate.{module}"), attribute)
    assert isinstance(found, Protocol), f"{PROTOCOLS[name]} is a protocol"
    return found
