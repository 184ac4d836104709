"""Where journals, jobs, waits and slots are kept: one interface and one file per database."""
