"""The commands of ``biodatamine``, one module for each group."""
