"""Backup, restore and the restore drill."""
