"""Fitting what the modality signals need to know; pure functions of arrays."""
