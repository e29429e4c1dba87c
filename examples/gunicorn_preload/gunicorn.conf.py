"""Import the application once, in the master, and fork the workers from it."""

preload_app = True
workers = 2
bind = "127.0.0.1:8000"
