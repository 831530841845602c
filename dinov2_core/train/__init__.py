"""Recipes, data, objective, optimisation and the training loop. Imports nothing but torch, numpy and safetensors."""
