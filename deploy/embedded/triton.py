"""Triton Inference Server from the nvidia-pytriton wheel, with its python backend."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from deploy.embedded.children import ChildrenCheck
from deploy.embedded.environment import PROJECT_ROOT, child_environment, join_paths
from deploy.embedded.errors import MissingSoftwareError
from deploy.embedded.ports import LOOPBACK
from deploy.embedded.probes import http_ready
from deploy.embedded.service import Action, Liveness, ServiceSpec

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where the python backend makes its regions
_STUB = "triton_python_backend_stub"
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def find_triton() -> Path:
    """Folder of the server inside its wheel.

    Raises
    ------
    MissingSoftwareError
        When it is not installed, or was not built for this Python.
    """
    spec = find_spec("pytriton")
    root = Path(spec.origin).parent / "tritonserver" if spec and spec.origin else None
    if root is None or not (root / "bin" / "tritonserver").is_file():
        msg = (
            "Triton is not installed: pip install 'biodatamine[embedded]' on Linux x86-64 with "
            "Python 3.10, 3.11 or 3.12, or start the other parts with "
            "--only broker,clickhouse,worker,gateway"
        )
        raise MissingSoftwareError(msg)
    if not (root / "python_backend_stubs" / _PYTHON / _STUB).is_file():
        built = sorted(path.name for path in (root / "python_backend_stubs").iterdir())
        msg = f"Triton's python backend has no stub for Python {_PYTHON}, only for {built}"
        raise MissingSoftwareError(msg)
    return root


def shared_memory_prefix(data_dir: Path) -> str:
    """Name prefix of the shared memory regions of a data folder's Triton."""
    digest = hashlib.sha256(str(data_dir.absolute()).encode()).hexdigest()
    return f"biodatamine_{digest[:12]}_"


def remove_shared_memory(prefix: str) -> int:
    """Remove the regions that a killed Triton left behind.

    Parameters
    ----------
    prefix : str
        As `shared_memory_prefix` gives it.

    Returns
    -------
    int
        How many there were.
    """
    removed = 0
    if _SHARED_MEMORY.is_dir():
        for region in _SHARED_MEMORY.glob(f"{prefix}*"):
            with contextlib.suppress(FileNotFoundError):
                region.unlink()
                removed += 1
    return removed


def make_backend_folder(root: Path, target: Path) -> None:
    """Lay out the python backend with the stub of this Python beside it.

    The server looks for the stub next to the backend; the wheel keeps one for each Python
    elsewhere, and site-packages is not ours to write to.

    Parameters
    ----------
    root : Path
        The server's folder in its wheel.
    target : Path
        Folder to make; what was there is replaced.
    """
    backend = target / "python"
    shutil.rmtree(backend, ignore_errors=True)
    backend.mkdir(parents=True)
    for source in (root / "backends" / "python").iterdir():
        if source.is_file():
            (backend / source.name).symlink_to(source)
    stub = root / "python_backend_stubs" / _PYTHON / _STUB
    if os.access(stub, os.X_OK):
        (backend / _STUB).symlink_to(stub)
    else:  # some installers drop the executable bit
        shutil.copyfile(stub, backend / _STUB)
        (backend / _STUB).chmod(0o755)


def triton_environment(root: Path) -> dict[str, str]:
    """Make an environment in which the stub finds this Python and its packages.

    Parameters
    ----------
    root : Path
        The server's folder in its wheel.
    """
    libraries = root.parents[1] / "nvidia_pytriton.libs"
    return child_environment(
        {
            # The stub embeds Python: it finds the standard library and the packages through the
            # `python3` on the PATH, and libpython where this Python was linked with one.
            "PATH": join_paths(Path(sys.executable).parent, os.environ.get("PATH")),
            "LD_LIBRARY_PATH": join_paths(
                libraries, sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH")
            ),
            # The embedded interpreter shares the cores with the decoders.
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        }
    )


def check_libraries(root: Path, environment: Mapping[str, str]) -> None:
    """Check that the stub finds its shared libraries, libpython above all.

    Parameters
    ----------
    root : Path
        The server's folder in its wheel.
    environment : mapping
        As `triton_environment` gives it.

    Raises
    ------
    MissingSoftwareError
        Naming what is missing and how to get it.
    """
    ldd = shutil.which("ldd")
    if ldd is None:
        return
    stub = root / "python_backend_stubs" / _PYTHON / _STUB
    listed = subprocess.run(
        [ldd, str(stub)], env=dict(environment), capture_output=True, text=True, check=False
    )
    missing = [line.split()[0] for line in listed.stdout.splitlines() if "not found" in line]
    if missing:
        msg = (
            f"Triton's python backend does not find {', '.join(missing)}: install it "
            f"(Debian, Ubuntu: apt install libpython{_PYTHON}), or use a Python that brings its "
            "shared library (conda, uv, or configured with --enable-shared)"
        )
        raise MissingSoftwareError(msg)


def triton_spec(
    *,
    data_dir: Path,
    model_repository: Path,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    after_ready: Action | None = None,
    extra_env: Mapping[str, str] | None = None,
) -> ServiceSpec:
    """Describe the model server.

    A model that does not load leaves the server running without it: files are then analysed without
    that model, and say so.

    Parameters
    ----------
    data_dir : Path
        Data folder; the private backend goes to ``triton/backends`` below it.
    model_repository : Path
        Folder of models.
    http_port, grpc_port, metrics_port : int
        Where it listens, on loopback.
    after_ready : callable, optional
        See `ServiceSpec`.
    extra_env : mapping, optional
        Variables for the models, such as where their weights are.

    Raises
    ------
    MissingSoftwareError
        When the server or a library is not installed.
    """
    root = find_triton()
    environment = triton_environment(root) | dict(extra_env or {})
    check_libraries(root, environment)
    backends = data_dir.absolute() / "triton" / "backends"
    prefix = shared_memory_prefix(data_dir)

    async def prepare() -> None:
        make_backend_folder(root, backends)
        remove_shared_memory(prefix)

    argv = (
        str(root / "bin" / "tritonserver"),
        f"--model-repository={model_repository.absolute()}",
        "--model-control-mode=none",
        "--exit-on-error=false",
        "--strict-readiness=false",
        "--exit-timeout-secs=8",
        f"--backend-directory={backends}",
        f"--backend-config=python,shm-region-prefix-name={prefix}",
        f"--http-address={LOOPBACK}",
        f"--http-port={http_port}",
        f"--grpc-address={LOOPBACK}",
        f"--grpc-port={grpc_port}",
        f"--metrics-address={LOOPBACK}",
        f"--metrics-port={metrics_port}",
        "--allow-gpu-metrics=false",
        "--log-format=ISO8601",
    )
    return ServiceSpec(
        name="triton",
        argv=argv,
        env=environment,
        # The embedded Python ignores PYTHONPATH; its search path starts with the working folder.
        cwd=PROJECT_ROOT,
        address=f"{LOOPBACK}:{grpc_port}",
        before_start=prepare,
        ready=http_ready(f"http://{LOOPBACK}:{http_port}/v2/health/ready"),
        after_ready=after_ready,
        ready_timeout_seconds=300.0,
        # It goes on saying READY of a model whose stub has died, and never starts the stub again.
        liveness=Liveness(ChildrenCheck(_STUB), max_faults=2),
        # It asks its models to finish before it leaves.
        stop_grace_seconds=15.0,
    )
