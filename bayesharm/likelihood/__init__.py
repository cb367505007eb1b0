"""The likelihood with all effects integrated out."""
