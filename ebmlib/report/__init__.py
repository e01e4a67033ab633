"""A report that a colleague can read without Python (chapter 15).

`write_report` scores a folder of photographs and writes one HTML file: scores and
threshold, curves, what was found, the pictures that matter, settings and versions.
The file needs no network and asks for none.
"""

from ebmlib.report.write import write_report

__all__ = ["write_report"]
