"""Training, protocol, scoring, records and reports: everything around a method. Importing it is cheap."""
