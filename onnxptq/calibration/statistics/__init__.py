"""Mergeable statistics of tensors, one kind per file."""
