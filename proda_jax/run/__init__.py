"""One experiment in one workdir: which stage is next, the loop, what survives."""
