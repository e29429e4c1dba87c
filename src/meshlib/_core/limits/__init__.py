"""How much a channel may have under way."""
