"""What the header says of the modality: one signal per kind of field, and where they clash."""

from __future__ import annotations

from streams.modality.tags.contradiction import contradictions
from streams.modality.tags.signals import TAG_SIGNALS, tag_opinions
from streams.modality.tags.values import VALUES, value_opinion

__all__ = ["TAG_SIGNALS", "VALUES", "contradictions", "tag_opinions", "value_opinion"]
