"""From the photograph to what the energy sees, and back (chapters 11 and 12)."""
