"""The names and layouts that other programs give the same weights, one module each, to and from ours.

Ours are the official ones. Modules translate tensors by name; files are read in ``tensor_files.py``, models built in
``weights.py``.
"""
