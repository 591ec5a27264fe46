"""Mergeable statistics of tensors, one kind a file."""
