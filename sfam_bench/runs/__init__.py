"""Run folders: written, proved, read, and kept small enough to be committed; no torch here."""
