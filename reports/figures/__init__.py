"""The figures of a report, each one a file: its rows, its claim, and how it is drawn."""
