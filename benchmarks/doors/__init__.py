"""The doors that are measured: this package's and its peers'.

A door is opened once, outside the clock, and then takes all texts in one call, or, as a door for queries, one after the
other. Everybody is told the same: JSON numbers (not base64), as many texts a request, as many requests in flight where
it can be told so; and else has its defaults.
"""

from doors import ours, peers
from doors.table import DOORS, OURS, QUERY, Setting

__all__ = ["DOORS", "OURS", "QUERY", "Setting", "ours", "peers"]
