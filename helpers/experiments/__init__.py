"""The experiments: one module per notebook. Each function measures one thing and returns a record."""
