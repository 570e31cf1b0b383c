"""Jobs that run apart: their states, folders, logs and failures, as local processes or on SLURM; no torch here."""
