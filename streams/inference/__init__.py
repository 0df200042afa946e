"""Triton client and what models answer."""
