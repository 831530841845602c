"""Pixels: decoding untrusted bytes, shards of them, and sets of images to read from."""
