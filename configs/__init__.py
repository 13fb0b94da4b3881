"""Every number a run depends on: YAML files, the schema that reads them, and the form of the records we write."""
