"""A folder for the PYTHONPATH of the children of a traced script: see `sitecustomize.py` in it."""
