"""Commands of whoever is on call: incidents, maintenance, rollback, monitors, figures."""
