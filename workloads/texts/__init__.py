"""Text and data sets as windows of tokens."""
