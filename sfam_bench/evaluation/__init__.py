"""Objects in, records out: evaluation of pairs, part agreement, cost, and the intervention check."""
