"""How the adapter of the embedded model is made."""
