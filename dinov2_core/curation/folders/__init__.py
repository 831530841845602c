"""Parts of the curation on plain folders of images, without a data root: what ``dinov2 dedup`` and its like run.

The algorithms are in ``curation``; option parsing is in ``commands``.
"""
