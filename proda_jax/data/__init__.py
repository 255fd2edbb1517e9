"""What the training loop reads: label spaces, example sources, pseudo labels."""
