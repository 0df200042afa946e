"""Whether a server still has the child processes that it had when it became ready."""

from __future__ import annotations

import psutil

_KERNEL_NAME_BYTES = 15
"""How much of a process name Linux keeps (TASK_COMM_LEN, without the final zero)."""


class ChildrenCheck:
    """Liveness check of a server that cannot work without its children.

    The first time that it is asked about a process, the children are counted; later there must be
    as many, zombies not among them. While those that were counted live, only they are looked at,
    not the machine's whole process table.

    Parameters
    ----------
    name : str
        Name of the children's executable; others are not counted.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._parent: psutil.Process | None = None
        self._children: list[psutil.Process] = []

    async def __call__(self, pid: int) -> str | None:
        """Tell what is missing.

        Parameters
        ----------
        pid : int
            The server's process id.
        """
        parent = psutil.Process(pid)
        if parent != self._parent:  # they compare by start time too
            self._parent, self._children = parent, self._find(parent)
        if all(map(_alive, self._children)):
            return None
        wanted = len(self._children)
        found = self._find(parent)
        if len(found) < wanted:
            return f"has {len(found)} of its {wanted} {self._name} processes left"
        self._children = found  # the server has started them again by itself
        return None

    def _find(self, parent: psutil.Process) -> list[psutil.Process]:
        return [child for child in parent.children() if self._is_one(child)]

    def _is_one(self, child: psutil.Process) -> bool:
        try:
            # A name that the kernel has cut is completed from the command line where it can be.
            name: str = child.name()
        except psutil.NoSuchProcess:
            return False
        return name[:_KERNEL_NAME_BYTES] == self._name[:_KERNEL_NAME_BYTES] and _alive(child)


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
