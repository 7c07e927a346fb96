"""The figures: record in, matplotlib axes out. One module per notebook, one style for all."""
