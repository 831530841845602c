"""Engines that run shard functions on a cluster. The local ones are in ``dinov2_core/shard_map.py``."""
