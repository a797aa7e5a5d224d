"""The warning that the processes of a shared quota cannot work together."""

from __future__ import annotations

import logging
import warnings
from contextlib import suppress

from multiembed.errors import QuotaWarning

logger = logging.getLogger("multiembed")


def warn(message: str) -> None:
    """Log a message and warn of it. As an error, a warning would end the work of the I/O thread."""
    logger.warning(message)
    with suppress(QuotaWarning):
        warnings.warn(message, QuotaWarning, stacklevel=2)
