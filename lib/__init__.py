"""What every function shares: decisions by noun, one adapter a vendor, one place for settings."""
