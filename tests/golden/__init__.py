"""What must not change for those who use frazil, as it was recorded, and the means to record it."""
