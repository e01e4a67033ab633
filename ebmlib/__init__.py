"""Energy-based anomaly detection and localization: the library of the book.

Each file holds one idea and names the chapter that explains it. Import what you
need from where it lives, for example ``from ebmlib.langevin import langevin``.
"""

__version__ = "0.1.0"
