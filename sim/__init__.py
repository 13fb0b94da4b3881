"""How hardware parts spend cycles and bytes: Schedule, engines, the result record. Knows no accelerator by name."""
