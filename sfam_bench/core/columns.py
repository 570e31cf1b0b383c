"""Names that records, run folders and reports share; no torch here."""

POINT_TO_POINT = "point_to_point"  # among the maps: (pairs, rows, cols, reference rows, reference cols) of no method
