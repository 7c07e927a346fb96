"""What experiments run against: a real PostgreSQL, a slow network, a load generator, small servers."""
