"""One thin module per stage: decode the event, call the room, write, emit."""
