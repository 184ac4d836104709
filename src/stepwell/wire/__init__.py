"""Bytes to model and back, one file per protocol or dialect, without a socket."""
