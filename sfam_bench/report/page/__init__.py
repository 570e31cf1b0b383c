"""The HTML page: its sections, the explorer of pairs, and the order in which pairs are shown."""
