"""The servers of the local platform, and the processes they run in."""
