"""What builds pages and figures of the documentation from the code."""
