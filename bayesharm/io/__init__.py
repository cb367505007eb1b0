"""Reading what the user has, and writing it back in the same form."""
