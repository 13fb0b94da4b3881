"""What results say: tables, figures, HTML. Runs nothing."""
