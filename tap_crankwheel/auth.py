"""Authentication: the one place that knows what the Authorization header looks like."""

from __future__ import annotations

import re

from singer_sdk.authenticators import APIKeyAuthenticator


class CrankWheelAuthenticator(APIKeyAuthenticator):
    """Sends the API key, raw, after the word Basic.

    That is not RFC 7617: the API answers 401 to a key in base64 (docs, and two clients that were
    run against it).

    Args:
        api_key: The key from the API tab of a CrankWheel account; white space around it is dropped.

    Raises:
        ValueError: The key is empty or cannot be sent. The message does not hold it.
    """

    def __init__(self, api_key: str) -> None:
        key = api_key.strip()
        if not key:
            msg = "it is empty"
            raise ValueError(msg)
        if key[0] in "'\"`":
            msg = "it is wrapped in quotes: leave them out"
            raise ValueError(msg)
        if not re.fullmatch(r"[!-~]+", key):
            msg = "it holds a space or a character that no key has: copy it again"
            raise ValueError(msg)
        super().__init__(key="Authorization", value=f"Basic {key}")
