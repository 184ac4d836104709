"""The loop of one server process: take messages, decide, commit, perform."""
