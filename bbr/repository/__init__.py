"""Repository format 1: names, signatures, seals, and what they add up to."""
