"""From a trace to an attributed `networkx.MultiDiGraph`, folded and sliced; no torch."""
