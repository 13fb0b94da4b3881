"""What a method costs in quality: perplexity under published protocols."""
