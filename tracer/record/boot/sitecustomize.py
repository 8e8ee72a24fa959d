"""Runs as Python starts in a child of a traced script, and waits there for torch.

Children that train are found by what they inherit, their environment, not by how they were
started: mp.spawn, Lightning and launchers start them in ways of their own. A child that never joins
a process group is left alone, and leaves nothing. The sitecustomize that would have run without us
runs too.
"""

import importlib.util
import os
import sys
from importlib.machinery import PathFinder
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))


def run_the_other() -> None:
    sys.path[:] = [path for path in sys.path if os.path.abspath(path or os.curdir) != HERE]
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


class WaitForTorch:
    """Hands the import of torch to the tracer's watch; nothing of the tracer is loaded before."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname != "torch":
            return None
        sys.meta_path.remove(self)
        watch = watch_of_tracer()
        return None if watch is None else watch.find_spec(fullname, path, target)


def watch_of_tracer() -> Any:
    sys.path.insert(0, ROOT)
    try:
        from tracer.record.children import watch
    except Exception as error:  # noqa: BLE001 - the child runs as it would without us
        print(f"gradtrace: a child is not recorded: {error}", file=sys.stderr)
        return None
    finally:
        sys.path.remove(ROOT)
    return watch()


if os.environ.get("GRADTRACE_CHILDREN") and sys.version_info >= (3, 11):
    sys.meta_path.insert(0, WaitForTorch())
run_the_other()
