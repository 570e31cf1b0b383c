"""Search spaces and studies of a method's fields; does not import torch."""
