"""Shared by all packages: types, records, similarities, targets, maps, baselines, errors, files."""
