"""Shared by metrics: their protocols, walks from an image to its baseline, and comparisons of maps."""
