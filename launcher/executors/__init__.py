"""How a stage is run: one port, one module per place to run it in."""
