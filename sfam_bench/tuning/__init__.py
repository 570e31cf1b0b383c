"""Search spaces and studies of a method's fields; no torch here."""
