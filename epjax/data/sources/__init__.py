"""One file for each form that data lie in."""
