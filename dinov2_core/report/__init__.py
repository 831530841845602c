"""The curation report as a page: pictures, charts, what to show, and the templates that show it.

Reading the stages' tables is the business of ``stages/curation_report.py``.
"""
