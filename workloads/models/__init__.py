"""Models: finding, loading, their built-in ones, folders on disk, shapes, and the exchange of their layers."""
