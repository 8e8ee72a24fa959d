"""Questions put to a trace or a graph: balance, summary; no torch."""
