"""Many design points on the same traces: read from one YAML file, simulated by as many workers as there are, searched if too many."""
