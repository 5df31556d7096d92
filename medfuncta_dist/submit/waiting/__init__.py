"""Why a job does not run: what the cluster's objects say, as one sentence with the next action. Pure."""
