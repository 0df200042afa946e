"""Application Entities: who may send what, and whose it becomes."""
