"""Forward passes of perturbed images: series, batches of constant size, and the choice of the fastest mode."""
