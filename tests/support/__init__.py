"""What the tests and the demo share: servers, clients and perdition itself, started and ended."""
