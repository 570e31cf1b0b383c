"""Tables of means and marks, and the formats in which they are written."""
