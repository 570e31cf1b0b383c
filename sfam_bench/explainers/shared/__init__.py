"""What methods share: their protocol, masks, attention, relevance, quadrature and preparation."""
