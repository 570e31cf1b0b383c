"""Forward passes of perturbed images: what is asked, how it is packed, and the fastest true way to take it."""
