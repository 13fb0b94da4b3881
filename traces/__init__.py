"""The stored record of a model run: format, reading, writing, statistics."""
