"""The formats in which data enters and leaves: one module for each."""
