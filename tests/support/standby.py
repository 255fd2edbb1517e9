"""A process that has imported what commands need, and makes a copy of itself for each that is to run.

It has not begun to work: no device is looked for before the copy is made, which so is as good as a new process. It ends
with the one that started it, and a command with its `starter.py`.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import traceback

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"}  # as main.py does
WANTED = ("tensorflow", "tensorflow_datasets", "clu.metric_writers", "torch", "PIL.Image", "matplotlib.pyplot",
          "proda_jax.run.experiment", "proda_jax.run.sources", "proda_jax.inference.predict")  # fmt: skip
EVERY = 0.02  # seconds between two looks at who has ended


def serve(place: str) -> tuple[dict, list[int]]:
    """Copies this process whenever asked; returns in each copy alone, with what it is to run and its streams."""
    running: dict[int, socket.socket] = {}
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(place)
        listening.listen()
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([listening, 0, *running.values()], [], [], EVERY if running else None)
            for pid, connection in list(running.items()):
                if connection in ready or 0 in ready:  # a starter has nothing more to say, but that it is gone
                    os.kill(pid, signal.SIGKILL)
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    running.pop(pid)
                    with connection:
                        if connection not in ready:
                            connection.sendall(b"%d\n" % status)
            if 0 in ready:
                os._exit(0)
            if listening in ready:
                connection, _ = listening.accept()
                _, streams, _, _ = socket.recv_fds(connection, 1, 3)
                asked = json.loads(connection.makefile().readline())
                pid = os.fork()
                if not pid:
                    for one in (connection, *running.values()):
                        one.close()
                    return asked, streams
                connection.sendall(b"%d\n" % pid)
                running[pid] = connection
                for stream in streams:
                    os.close(stream)


def run(arguments: list[str], folder: str, environment: dict[str, str], streams: list[int]) -> None:
    """Runs what `python` with these arguments would."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)
    for name in {*environment, *os.environ}:
        if name.startswith("JAX_") and environment.get(name) != os.environ.get(name):
            sys.exit(f"{name} was read when JAX was imported: start this command with sys.executable")
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[0] = folder
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(arguments[1], {"__name__": "__main__"})
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


def end(code: object) -> None:
    """Ends a copy as `sys.exit` would, but for taking everything apart that was imported, which takes a second."""
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    for module in WANTED:
        with contextlib.suppress(ModuleNotFoundError):  # there is no TensorFlow for Python 3.14
            importlib.import_module(module)
    gc.freeze()  # so that looking for garbage copies none of it
    asked, streams = serve(sys.argv[1])
    try:
        run(**asked, streams=streams)
    except SystemExit as exit:
        end(exit.code)
    except BaseException:
        traceback.print_exc()
        end(1)
    end(0)
