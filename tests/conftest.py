"""Settings that must stand before JAX is imported: tests run on the CPU, which shows itself as four devices."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
FLAG = "--xla_force_host_platform_device_count"
if FLAG not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAG}=4".strip()
