"""A JSON schema for each stream, under its name."""

from __future__ import annotations

import sys

from singer_sdk import SchemaDirectory

SCHEMAS = SchemaDirectory(sys.modules[__name__])
