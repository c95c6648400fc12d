"""The numbers that compare predictions: maths on tensors of logits."""

CANDIDATES = 5  # the most probable tokens of an entry that are kept and shown
