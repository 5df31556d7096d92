"""What can be known to be wrong with a RayJob before a cluster sees it: schemas and rulebooks."""
