"""The commands, by subject; each imports what it needs when it runs."""
