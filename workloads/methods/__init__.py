"""Sparsity methods: from a file to the pairs that a layer keeps."""
