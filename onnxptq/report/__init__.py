"""Report: what was done to each layer and why, as data, text and one web page."""
