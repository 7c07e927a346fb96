"""Programs worth reading: what servers are made of, each small enough for one screen."""
