"""The receive path of our own: processes, associations, fragments."""
