"""Report: the treatment of each layer and its reasons, as data, text and one web page."""
