"""JSON schemas, one a stream: what leaves the tap, and the types that payloads are read by."""
