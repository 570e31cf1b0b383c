"""Nearest neighbours in bounded memory, and what is measured of them: recall@k, MAP@R, rank."""
