"""The numbers that compare predictions: maths on tensors of logits."""
