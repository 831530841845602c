"""Data sets in their official on-disk layouts: one module a family, each a frozen description made by ``load(root)``.

A wrong folder is one error that names what is missing and the expected form; a broken file is one that names the file.
Scores and features do not belong here.
"""
