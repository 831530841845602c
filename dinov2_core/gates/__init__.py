"""What a table, a batch or a training must show before anyone builds on it: measured here, judged by the caller.

Which expectations a table has, and who is stopped by them, is not decided here.
"""
