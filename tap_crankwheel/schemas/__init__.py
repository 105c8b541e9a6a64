"""A JSON schema for each stream, under its name."""

from __future__ import annotations

import sys
from typing import Any

from singer_sdk import SchemaDirectory

#: A JSON object, such as a row of a stream.
Row = dict[str, Any]

SCHEMAS = SchemaDirectory(sys.modules[__name__])
