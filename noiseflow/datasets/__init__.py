"""Readers of noisy–clean image pairs."""
