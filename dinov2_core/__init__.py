"""DINOv2 (arXiv 2304.07193): curation, training and evaluation, as a library.

Nothing in this package knows an orchestrator, a tracker, a version-control system or a cluster engine:
those live in ``assets`` and ``pipelines``, which import this package and never the reverse.
"""

__version__ = "0.1.0"
