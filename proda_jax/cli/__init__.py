"""The command `proda`, which is `python main.py` of a checkout: its flags, and what each --mode does."""
