"""From a run file to a RayJob: pure rendering."""
