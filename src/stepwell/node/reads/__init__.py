"""What the screens and APIs ask of a node, one file per question."""
