"""Names shared by records, run folders and reports; does not import torch."""

MATCHES = "matches"  # METHOD/matches: (pairs, matches, 5), see evaluation.evaluate.strongest_matches
POINT_TO_POINT = "point_to_point"  # stored beside the maps: (pairs, rows, cols, reference rows, reference cols)
