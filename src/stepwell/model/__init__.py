"""The vocabulary of Stepwell: values that every other folder may speak of, and what makes them valid."""
