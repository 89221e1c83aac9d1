"""What every framework's takeover is."""
