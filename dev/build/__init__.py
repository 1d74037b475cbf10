"""What is deployed: the build, and the files that are generated for it."""
