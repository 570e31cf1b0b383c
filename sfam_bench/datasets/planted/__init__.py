"""The planted set: images whose evidence is known, drawn from a seed."""
