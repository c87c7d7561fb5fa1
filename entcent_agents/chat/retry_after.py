"""When a server says that it may be asked again."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from email.utils import mktime_tz, parsedate_tz


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """What an answer's `Retry-After` comes to, given as seconds or as a date; None where it says nothing of use.

    Args:
        headers: Of the answer, found in any case.
    """
    said = headers.get("retry-after", "")
    try:
        date = parsedate_tz(said)
        seconds = float(said) if date is None else mktime_tz(date) - time.time()
    except (ValueError, OverflowError):
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
