"""ProDA in JAX: `python main.py --config=configs/demo.py --workdir=/tmp/proda_demo`."""

from proda_jax.cli.main import run

if __name__ == "__main__":
    run()
