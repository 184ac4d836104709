"""What tests run against: a clock, an in-memory node, scripted workers and the simulator."""
