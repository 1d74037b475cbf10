"""Vendors' management APIs: one module each, over http.py; redeployment.py waits for Vercel."""
