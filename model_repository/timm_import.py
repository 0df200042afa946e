"""Import timm beside any torchvision, including one that does not fit the installed torch.

timm imports torchvision when it is imported, but the backbones here need nothing of it. Package
indexes often pair a CPU build of torch with a CUDA build of torchvision. Its C++ extension then
cannot be loaded, and torchvision stops while it registers shape functions for operators that the
extension would have defined: ``RuntimeError: operator torchvision::nms does not exist``.

The import is tried as it is first. Only on that error are the two operator *schemas* declared (no
kernel: calling them still fails) and the import tried again. Declaring them beforehand would abort
a pair that fits, because the extension then defines the same operators a second time.
"""

from __future__ import annotations

import importlib
import sys
import threading
from types import ModuleType

import torch

_OPERATOR_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
# A Library that is collected takes its declarations along: it must live as long as the process.
_keep_alive: list[torch.library.Library] = []
_lock = threading.Lock()


def is_missing_operator(error: BaseException) -> bool:
    """Tell whether ``error`` is torchvision missing its own C++ operators.

    Parameters
    ----------
    error
        What ``import torchvision`` (directly or through timm) raised.
    """
    message = str(error)
    return isinstance(error, RuntimeError) and (
        "torchvision::" in message and "does not exist" in message
    )


def import_timm() -> ModuleType:
    """Return the ``timm`` module, past a torchvision without operators if need be.

    Raises
    ------
    ImportError
        timm, torch or torchvision is not installed.
    RuntimeError
        torchvision is broken for another reason than its missing operators.
    """
    with _lock:
        try:
            return importlib.import_module("timm")
        except RuntimeError as error:
            if not is_missing_operator(error):
                raise
        _declare_operators()
        _forget(("torchvision", "timm"))
        return importlib.import_module("timm")


def _declare_operators() -> None:
    if _keep_alive:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _OPERATOR_SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    _keep_alive.append(library)


def _forget(packages: tuple[str, ...]) -> None:
    """Drop half-imported modules, so that the next import runs their code again."""
    for name in [name for name in sys.modules if name.split(".")[0] in packages]:
        del sys.modules[name]
