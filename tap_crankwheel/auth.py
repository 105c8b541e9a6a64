"""Authentication: the one place that knows what the Authorization header looks like."""

from __future__ import annotations

from singer_sdk.authenticators import APIKeyAuthenticator


class CrankWheelAuthenticator(APIKeyAuthenticator):
    """Sends the API key, raw, after the word Basic.

    That is not RFC 7617: the API answers 401 to a key in base64 (docs, and two clients that were
    run against it).

    Args:
        api_key: The key from the API tab of a CrankWheel account.
    """

    def __init__(self, api_key: str) -> None:
        super().__init__(key="Authorization", value=f"Basic {api_key}")
