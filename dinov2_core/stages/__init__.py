"""The stages: each module reads upstream tables, calls an algorithm of this package and writes tables.

One module a stage, holding its ``Params`` and its ``run``. The algorithms live in ``images``, ``curation``,
``model``, ``train`` and ``evaluate``, and know nothing of stages.
"""
