"""Run file to RayJob, and the clients that submit, watch and cancel it."""
