"""Two runs of one model compared: gradients, steps, ledgers, and where they part."""
