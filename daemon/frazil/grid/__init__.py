"""Where on the grid micrographs were taken, and what came of its squares and holes."""
