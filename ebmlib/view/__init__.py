"""From the photograph to what the energy sees, and back (chapters 11 and 12)."""

from ebmlib.view.view import Seen, View

__all__ = ["Seen", "View"]
