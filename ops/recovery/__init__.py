"""Backup, restore and the restore drill: `ops backup`, `backups`, `restore`, `restore-drill`.

backup.py dumps through postgres.py into an encrypted file with a signed manifest. load.py puts it
back in one transaction (archive.py chooses what, clearing.py drops what is there), after_load.py
makes the database take leads again. plan.py runs both against production, drill.py against a
throwaway platform. Called by commands.py and restore.py alone.
"""
