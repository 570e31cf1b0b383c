"""The only package that knows Hydra: settings, the command line, and one function a command."""
