"""The vision transformer, its heads and its weights in and out. How it is trained does not belong here."""
