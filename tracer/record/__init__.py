"""The recording half: watches one process of PyTorch and writes facts. Needs torch."""
