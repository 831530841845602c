"""Thin Dagster assets and the asset checks beside them, one module a stage.

An asset asks ``dinov2_core`` to bring its stage up to date and reports what came out. Nothing here computes, and
nothing here imports torch, faiss, onnxruntime, mlflow or great_expectations at module level: the web server and the
daemon load these modules. Jobs, schedules and resources live in ``pipelines``, which imports this package.
"""
