"""Fitting models to data."""
