"""How well methods harmonize scans that they have not seen."""
