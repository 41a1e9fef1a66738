"""What the examples share: joining the ranks, the command line, the text, what is shown and what is written."""
