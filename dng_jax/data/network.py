"""Whether files can be had from the network, found out before a download is begun.

TensorFlow Datasets, asked to download without a network, tries for three and a half minutes.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from urllib.parse import urlsplit


def check(url: str, seconds: float = 3) -> None:
    """Raises OSError, with one short sentence, where the server does not begin to send the file."""
    try:
        with urllib.request.urlopen(url, timeout=seconds):
            return
    except urllib.error.HTTPError as error:
        raise OSError(f"{url} answers {error.code} {error.reason}") from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise OSError(f"{urlsplit(url).netloc} cannot be reached: {reason}") from None
