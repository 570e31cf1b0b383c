"""Figures, drawn from stored records."""
