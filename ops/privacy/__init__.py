"""Commands about a person's requests, and how long anything is kept."""
