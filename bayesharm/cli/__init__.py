"""The `bayesharm` command."""
