"""What metrics share: the protocol that they follow, walks along pixels, and what they ask of an evaluation."""
