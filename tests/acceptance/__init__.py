"""The main job, end to end, over the real parts and a simulated world."""
