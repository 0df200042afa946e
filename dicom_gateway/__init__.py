"""The Storage SCP: associations, C-STORE, C-ECHO, outbox, publisher."""
