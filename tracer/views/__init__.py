"""An analysis or a graph as text: labels, DOT, SVG, terminal."""
