"""Orchestration: definitions, jobs, schedules, resources, the demo. Imports ``assets`` and ``dinov2_core``.

No re-exports and no side effects here; nothing heavy at module level anywhere in this package.
"""
