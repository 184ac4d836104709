"""What should happen next: pure functions of journal, message and time, without clock, socket or database."""
