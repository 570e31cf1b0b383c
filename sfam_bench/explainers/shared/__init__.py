"""Shared by methods: their protocol, masks, attention, relevance, quadrature and preparation."""
