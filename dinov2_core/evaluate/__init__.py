"""Evaluation protocols on frozen features, each with its uncertainty."""
