"""The production servers as local processes from pip packages."""
