"""The planted data set: images rendered from a seed, with known evidence."""
