"""The train steps: one file a stage."""
