"""Evaluation of pairs, part agreement, cost and the intervention check: from objects to records."""
