"""The second receive path: pynetdicom's own SCP and its threads."""
