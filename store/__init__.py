"""What is remembered: records, events, the database, blobs, and the formats in which data enters and leaves."""
