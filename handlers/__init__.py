"""What reacts: one file for each stage of the method, and what the stages share."""
