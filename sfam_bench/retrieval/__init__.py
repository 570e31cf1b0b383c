"""Nearest neighbours in bounded memory, and retrieval measures: recall@k, MAP@R, rank."""
