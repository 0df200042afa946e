"""One thin module per agent: decode the event, call the room, write, emit."""
