"""One module a command, each with its function main."""
