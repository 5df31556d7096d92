"""From a run file to a job on a cluster, and the commands that submit, watch and cancel it."""
