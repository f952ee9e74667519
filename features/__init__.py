"""Feature stores, the task streams over them, and how they are made."""
