"""Finding the endpoints of a service: when to ask again, and what an answer means."""
