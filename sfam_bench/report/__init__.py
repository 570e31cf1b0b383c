"""Stored records in, tables, figures and a page out; no torch here."""
