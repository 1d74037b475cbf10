"""Stand-ins of vendors that live on the internet: their documented wire format, and faults."""
