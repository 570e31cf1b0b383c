"""The only package that imports Hydra: settings, the command line, and one function per command."""
