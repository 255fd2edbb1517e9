"""What any program needs: files, hosts, devices, checkpoints, progress, signals, errors."""
