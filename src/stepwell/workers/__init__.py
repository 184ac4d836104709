"""The performer that calls user code, one file per transport."""
