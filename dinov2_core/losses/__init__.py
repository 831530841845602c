"""The terms of the self-supervised objective, one a file, as functions of logits or features."""
