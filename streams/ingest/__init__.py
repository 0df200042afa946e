"""Where files come from when no PACS pushes them."""
