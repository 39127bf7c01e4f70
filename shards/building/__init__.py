"""Raw data sets to shards: checked, planned, encoded, packed, final only as a whole."""
