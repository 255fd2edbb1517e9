"""From raw folders and foreign checkpoints to what `main.py` reads."""
