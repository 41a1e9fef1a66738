"""How fast divided models are."""
