"""What every other package may use: types, records, similarities, targets, maps, baselines, errors, files."""
