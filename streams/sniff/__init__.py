"""Bytes to format and header facts."""
