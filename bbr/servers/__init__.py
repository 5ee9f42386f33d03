"""Real servers, started and stopped: for the demo, for scratch members, for tests."""
