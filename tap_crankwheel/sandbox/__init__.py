"""A CrankWheel account in miniature: seeded data, an HTTP server, and the tap in front of it."""
