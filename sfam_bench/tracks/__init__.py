"""Frozen tasks that methods of others enter, and the rows of their leaderboards."""
