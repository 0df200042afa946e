"""Series and studies: when they are complete, whether they fit together, what they are as volumes.

Everything here takes and returns values: no broker, no database, no clock of its own.
"""
