"""Settings: `base.py` explains every one; each other file is a configuration to be named with --config."""
