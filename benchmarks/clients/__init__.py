"""The clients that are measured: this package's and its peers'.

A client is made once, outside the measurement. It then takes all texts in one call, or, as a client for queries, one
after the other. All have the same settings: JSON numbers (not base64), texts in a request, and requests in flight where
that can be set. Everything else has its default.
"""

from clients import ours, peers
from clients.table import CLIENTS, OURS, QUERY, Setting

__all__ = ["CLIENTS", "OURS", "QUERY", "Setting", "ours", "peers"]
