"""Which hosts had better be left alone for a while."""
