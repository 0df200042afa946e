"""Sends messages, and returns when the brokers have them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from schemas import Event, encode, key_of
from schemas.topics import partition_of
from streams.runtime.retry import ServiceFaultError

_SEND_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Outgoing:
    """A message ready to be sent.

    Parameters
    ----------
    topic : str
        Where to.
    key, value : bytes
        What.
    headers : tuple of (str, bytes)
        Kafka headers.
    """

    topic: str
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()

    @classmethod
    def of(cls, event: Event) -> Outgoing:
        """Make the message of an event.

        Raises
        ------
        EncodeError
            If the event is too large for a message.
        """
        headers = (("trace-id", event.trace_id.encode()),)
        return cls(event.TOPIC, key_of(event), encode(event), headers)


class Emitter:
    """One producer for a worker.

    Parameters
    ----------
    bootstrap_servers : str
        Brokers, ``host:port`` separated by commas.
    idempotent : bool
        Whether the brokers number the messages of a producer and drop its repeats. The embedded
        broker does not know how (it answers InitProducerId with an error).
    """

    def __init__(self, bootstrap_servers: str, *, idempotent: bool = True) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._idempotent = idempotent
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()

    async def send(self, messages: Sequence[Outgoing]) -> None:
        """Send and wait until every message is acknowledged by all in-sync replicas.

        Raises
        ------
        ServiceFaultError
            If the brokers cannot take them now. Some may have arrived; sending all again does no
            harm, since readers know an event by its ``event_id``.
        """
        if not messages:
            return
        try:
            producer = await self._get()
            futures = [
                await producer.send(m.topic, m.value, key=m.key, headers=list(m.headers))
                for m in messages
            ]
            await asyncio.wait_for(asyncio.gather(*futures), _SEND_TIMEOUT_SECONDS)
        except (KafkaError, OSError, asyncio.TimeoutError) as error:
            # A producer whose broker forgot its id, or its topics, does not come right by itself.
            await self.stop()
            raise ServiceFaultError("kafka", f"{type(error).__name__}: {error}") from error

    async def stop(self) -> None:
        """Close the producer; the next ``send`` opens one again."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(KafkaError, OSError, asyncio.TimeoutError):
                await asyncio.wait_for(producer.stop(), 5)

    async def _get(self) -> AIOKafkaProducer:
        async with self._starting:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    bootstrap_servers=self._bootstrap_servers,
                    acks="all",
                    partitioner=partition_of,
                    enable_idempotence=self._idempotent,
                    linger_ms=5,
                    # Some hundred events in a request: with 16 kB, aiokafka's default, a burst of
                    # small files is mostly requests.
                    max_batch_size=1 << 18,
                    request_timeout_ms=20_000,
                )
                try:
                    await producer.start()
                except BaseException:
                    await producer.stop()
                    raise
                self._producer = producer
            return self._producer
