"""Names shared by records, run folders and reports; does not import torch."""

POINT_TO_POINT = "point_to_point"  # stored beside the maps: (pairs, rows, cols, reference rows, reference cols)
