"""Running models: sessions, outputs sample by sample, metrics, and comparisons of two models."""
