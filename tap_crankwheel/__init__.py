"""Singer tap for CrankWheel, the screen-sharing service for sales teams."""
