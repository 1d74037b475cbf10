"""Vercel's edge and runtime on this machine: routing, static files, functions."""
